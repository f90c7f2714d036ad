"""A worker process; run with the globals `line`, `worker`, `incarnation`, `mode`, `num_steps`.

`line` brings (range, view, addresses) and takes ("clock", clock) before each step, ("acked", clock)
and at the end ("done", digest of all weights that it pulls then).
"""

import sys
import threading
import warnings
from collections import deque
from contextlib import suppress
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

import ps_task

from reknit.parameter_server.binding import Binding
from reknit.parameter_server.client import Client, WorkersChangedError, first_clock


def hear(line, client) -> None:
    with suppress(EOFError, OSError):
        while True:
            client.see(*line.recv())


def rows(worker: int, clock: int) -> dict[str, torch.Tensor]:
    return {"table.weight": ps_task.batch(worker, clock)[0]}


def train(line, client, worker: int, num_steps: int) -> None:
    model = ps_task.Model()
    binding = Binding(model, ps_task.NUM_RANGES)
    clock = first_clock(client.join().result(60))
    wishes = binding.wishes(rows(worker, clock))
    pulling = client.pull(clock, wishes)
    pushing: deque = deque()
    while clock < num_steps:
        line.send(("clock", clock))
        binding.install(wishes, [answer.tensors for answer in pulling.result(60)])
        ps_task.compute(model, worker, clock)
        pushing.append((clock, client.push(clock, binding.gradients())))
        clock += 1
        wishes = binding.wishes(rows(worker, clock))
        pulling = client.pull(clock, wishes)
        while len(pushing) > 1:
            acknowledge(line, pushing)
    while pushing:
        acknowledge(line, pushing)
    pulling.result(60)
    weights = client.pull(num_steps, ps_task.everything(binding)).result(60)
    line.send(("done", ps_task.digest([dict(answer.tensors) for answer in weights])))


def acknowledge(line, pushing) -> None:
    clock, pending = pushing.popleft()
    pending.result(60)
    line.send(("acked", clock))


def main(line, worker, incarnation, mode, num_steps) -> None:
    client = Client(
        ps_task.NUM_RANGES,
        worker=worker,
        incarnation=incarnation,
        token=ps_task.TOKEN,
        is_synchronous=ps_task.MODES[mode].is_synchronous,
        max_frame_bytes=ps_task.MAX_FRAME_BYTES,
    )
    threading.Thread(target=hear, args=(line, client), daemon=True).start()
    while True:
        try:
            train(line, client, worker, num_steps)
            break
        except WorkersChangedError:
            line.send(("again", None))
    client.close()


torch.set_num_threads(1)
warnings.simplefilter("error")
main(line, worker, incarnation, mode, num_steps)  # type: ignore[name-defined]  # noqa: F821
