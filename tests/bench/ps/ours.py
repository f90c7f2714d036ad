"""Reknit's parameter servers, with one copy of each range or two."""

import asyncio
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import torch

from reknit.parameter_server.binding import Binding
from reknit.parameter_server.client import Client
from reknit.parameter_server.plan import place_ranges
from reknit.parameter_server.server import Server
from reknit.parameter_server.state import new_range
from reknit.parameter_server.table import Consistency, Mode
from reknit.parameter_server.tensors import RangeTensors
from reknit.parameter_server.views import Member, View
from workload import (
    NUM_SERVERS,
    NUM_WORKERS,
    Config,
    Stopwatch,
    compute,
    ids_of,
    make_model,
    make_optimizer,
    received_bytes,
)

TOKEN = "bench"
MAX_FRAME_BYTES = 1 << 28
FOREVER = 1e12


def mode_of(config: Config) -> Mode:
    """The consistency of a run."""
    synchronous = Consistency.SYNCHRONOUS if config.synchronous else Consistency.ASYNCHRONOUS
    return Mode(synchronous)


def views(copies: int) -> list[View]:
    """The only view of each range."""
    members = tuple(Member(worker, 1) for worker in range(NUM_WORKERS))
    return [
        View(1, 1, str(primary), None if backup is None else str(backup), members)
        for primary, backup in place_ranges(NUM_SERVERS, copies)
    ]


def serve(line: Connection, rank: int, config: Config, copies: int) -> None:
    """A server: sends its port, takes the addresses; at the end sends what it has received."""
    torch.set_num_threads(1)
    asyncio.run(_serve(line, rank, config, copies))


async def _serve(line: Connection, rank: int, config: Config, copies: int) -> None:
    server = Server(str(rank), token=TOKEN, max_frame_bytes=MAX_FRAME_BYTES)
    line.send(server.start("127.0.0.1"))
    addresses = await asyncio.to_thread(line.recv)
    model, mode = make_model(config.model), mode_of(config)
    plan = Binding(model, NUM_SERVERS).plan
    named = dict(model.named_parameters())
    for number, view in enumerate(views(copies)):
        if str(rank) in (view.primary, view.backup):
            tensors = RangeTensors(plan, number, make_optimizer, keeps_previous=config.synchronous)
            tensors.read(lambda name, span: named[name].detach().view(-1)[span.start : span.stop])
            server.hold(number, new_range(str(rank), mode, holds_since=1), tensors)
            server.see(number, view, addresses)
            server.renew(number, 1, FOREVER)
    line.send("ready")
    serving = asyncio.create_task(server.run())
    await asyncio.to_thread(line.recv)
    line.send(received_bytes())
    await asyncio.to_thread(line.recv)
    serving.cancel()
    with suppress(asyncio.CancelledError):
        await serving
    server.close()


def work(line: Connection, worker: int, config: Config, copies: int, addresses: Any) -> None:
    """A worker: sends its rate, its losses and what it has received."""
    torch.set_num_threads(1)
    client = Client(
        NUM_SERVERS,
        worker=worker,
        incarnation=1,
        token=TOKEN,
        is_synchronous=config.synchronous,
        max_frame_bytes=MAX_FRAME_BYTES,
    )
    for number, view in enumerate(views(copies)):
        client.see(number, view, addresses)
    line.send(_train(client, worker, config))
    line.recv()
    client.close()


def _train(client: Client, worker: int, config: Config) -> tuple[float, float, int]:
    model = make_model(config.model)
    binding, watch, loss = Binding(model, NUM_SERVERS), Stopwatch(config), 0.0
    wishes = binding.wishes(_rows(config, worker, 0))
    pulling, pushing = client.pull(0, wishes), None
    for step in range(config.steps):
        watch.step(step)
        binding.install(wishes, [answer.tensors for answer in pulling.result(60)])
        loss = compute(model, config, worker, step)
        if pushing is not None:
            pushing.result(60)
        pushing = client.push(step, binding.gradients())
        wishes = binding.wishes(_rows(config, worker, step + 1))
        pulling = client.pull(step + 1, wishes)
    pulling.result(60)
    rate = watch.samples_per_second()
    return rate, loss, received_bytes()


def _rows(config: Config, worker: int, step: int) -> dict[str, torch.Tensor]:
    return {} if config.model == "dense" else {"table.weight": ids_of(config, worker, step)}


def run(context: Any, config: Config, copies: int) -> tuple[list[tuple[float, float]], int]:
    """Each worker's rate and last loss, and the bytes that all processes have received."""
    servers = [_start(context, serve, rank, config, copies) for rank in range(NUM_SERVERS)]
    addresses = {str(r): f"127.0.0.1:{line.recv()}" for r, (_, line) in enumerate(servers)}
    for _, line in servers:
        line.send(addresses)
    for _, line in servers:
        line.recv()
    workers = [
        _start(context, work, worker, config, copies, addresses) for worker in range(NUM_WORKERS)
    ]
    told = [line.recv() for _, line in workers]
    total = sum(received for _, _, received in told)
    for _, line in servers:
        line.send("count")
        total += line.recv()
    for process, line in [*workers, *servers]:
        line.send("end")
        process.join()
    return [(rate, loss) for rate, loss, _ in told], total


def _start(context: Any, target: Any, *arguments: Any) -> tuple[Any, Connection]:
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(theirs, *arguments), daemon=True)
    process.start()
    theirs.close()
    return process, ours
