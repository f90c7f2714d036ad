"""What people write with torch alone: parameter servers over torch.distributed.rpc.

The synchronous one is the batch-updating server of torch's tutorial on batched RPC processing: the
last worker's call steps the optimizer and completes the others' futures. Nothing is replicated.
"""

import os
import threading
import warnings
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import nn
from torch.distributed import rpc

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

WORLD = NUM_SERVERS + NUM_WORKERS


class ParameterServer:
    """Half of the model: of the dense one a layer, of the sparse one half of the rows."""

    def __init__(self, rank: int, config: Config) -> None:
        model = make_model(config.model)
        self.config, self.lock = config, threading.Lock()
        if config.model == "dense":
            self.parameters = [nn.Parameter(list(model.parameters())[rank].detach().clone())]
        else:
            rows = model.table.weight.detach().chunk(NUM_SERVERS)[rank]
            self.parameters = [nn.Parameter(rows.clone())]
            if rank == 0:
                self.parameters += [
                    nn.Parameter(p.detach().clone()) for p in model.head.parameters()
                ]
        self.optimizer = make_optimizer(self.parameters)
        self.waiting: list[tuple[torch.futures.Future[Any], torch.Tensor | None]] = []

    def add(self, gradients: list[torch.Tensor]) -> None:
        """Adds to the gradient that is collected."""
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient

    def update(self) -> None:
        """One step with what was collected."""
        self.optimizer.step()
        self.optimizer.zero_grad()

    def weights(self, rows: torch.Tensor | None) -> list[torch.Tensor]:
        """Of dense parameters all, of the table these rows."""
        found = [parameter.detach() for parameter in self.parameters]
        return [found[0].clone() if rows is None else found[0][rows], *found[1:]]


_server: ParameterServer | None = None


def begin(rank: int, config: Config) -> None:
    """Makes this process's half of the model."""
    # Remote functions find their object in the module.
    global _server
    _server = ParameterServer(rank, config)


def pull(rows: torch.Tensor | None) -> list[torch.Tensor]:
    """Weights without a push."""
    assert _server is not None
    with _server.lock:
        return _server.weights(rows)


@rpc.functions.async_execution
def exchange(
    gradients: list[torch.Tensor], rows: torch.Tensor | None
) -> "torch.futures.Future[list[torch.Tensor]]":
    """Push and pull in one call."""
    server = _server
    assert server is not None
    future: torch.futures.Future[list[torch.Tensor]] = torch.futures.Future()
    with server.lock:
        server.add(gradients)
        server.waiting.append((future, rows))
        if server.config.synchronous and len(server.waiting) < NUM_WORKERS:
            return future
        server.update()
        done, server.waiting = server.waiting, []
        answers = [(each, server.weights(wanted)) for each, wanted in done]
    for each, weights in answers:
        each.set_result(weights)
    return future


def train(worker: int, config: Config) -> tuple[float, float]:
    """The loop of one worker: its rate and its last loss."""
    model, watch, loss = make_model(config.model), Stopwatch(config), 0.0
    half = model.table.num_embeddings // NUM_SERVERS if config.model == "sparse" else 0
    rows = _rows(config, worker, 0, half)
    pulls = [rpc.rpc_async(f"server-{s}", pull, args=(rows[s],)) for s in range(NUM_SERVERS)]
    for step in range(config.steps):
        watch.step(step)
        weights = [each.wait() for each in pulls]
        _install(model, weights, rows, half)
        loss = compute(model, config, worker, step)
        gradients = _gradients(model, half)
        rows = _rows(config, worker, step + 1, half)
        pulls = [
            rpc.rpc_async(f"server-{s}", exchange, args=(gradients[s], rows[s]))
            for s in range(NUM_SERVERS)
        ]
    for each in pulls:
        each.wait()
    return watch.samples_per_second(), loss


def _rows(config: Config, worker: int, step: int, half: int) -> list[torch.Tensor | None]:
    if config.model == "dense":
        return [None, None]
    ids = torch.unique(ids_of(config, worker, step))
    return [ids[ids < half], ids[ids >= half] - half]


def _install(
    model: nn.Module,
    weights: list[list[torch.Tensor]],
    rows: list[torch.Tensor | None],
    half: int,
) -> None:
    with torch.no_grad():
        if not half:
            for parameter, (value,) in zip(model.parameters(), weights, strict=True):
                parameter.copy_(value)
            return
        for server, found in enumerate(weights):
            model.table.weight[rows[server] + server * half] = found[0]
        for parameter, value in zip(model.head.parameters(), weights[0][1:], strict=True):
            parameter.copy_(value)


def _gradients(model: nn.Module, half: int) -> list[list[torch.Tensor]]:
    if not half:
        return [[parameter.grad] for parameter in model.parameters() if parameter.grad is not None]
    whole = model.table.weight.grad.coalesce()
    indices, values = whole.indices()[0], whole.values()
    parts = []
    for server in range(NUM_SERVERS):
        inside = (indices >= server * half) & (indices < (server + 1) * half)
        local = (indices[inside] - server * half)[None]
        parts.append([torch.sparse_coo_tensor(local, values[inside], (half, whole.shape[1]))])
    parts[0] += [parameter.grad for parameter in model.head.parameters()]
    return parts


def process(line: Connection, rank: int, config: Config, port: int) -> None:
    """A server or a worker; workers send (rate, loss), and then everyone what it has received."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    # Plain TCP, as between machines.
    options = rpc.TensorPipeRpcBackendOptions(_transports=["uv"], _channels=["basic"])
    is_server = rank < NUM_SERVERS
    name = f"server-{rank}" if is_server else f"worker-{rank - NUM_SERVERS}"
    if is_server:
        begin(rank, config)
    rpc.init_rpc(name, rank=rank, world_size=WORLD, rpc_backend_options=options)
    if not is_server:
        line.send(train(rank - NUM_SERVERS, config))
    line.recv()
    line.send(received_bytes())
    line.recv()
    rpc.shutdown(graceful=False)


def run(context: Any, config: Config, port: int) -> tuple[list[tuple[float, float]], int]:
    """Each worker's rate and last loss, and the bytes that all processes have received."""
    started = []
    for rank in range(WORLD):
        ours, theirs = context.Pipe()
        each = context.Process(target=process, args=(theirs, rank, config, port), daemon=True)
        each.start()
        theirs.close()
        started.append((each, ours))
    told = [line.recv() for _, line in started[NUM_SERVERS:]]
    for _, line in started:
        line.send("count")
    total = sum(line.recv() for _, line in started)
    for each, line in started:
        line.send("end")
        each.join()
    return told, total
