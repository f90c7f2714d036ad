"""What people write without Reknit: a DDP script with a checkpoint every few steps, for torchrun.

Each process shows what it does on Reknit's progress board, so that both contestants are disturbed
and timed by the same eye, and leaves one line with the times of its start: when it ran, had its
imports, and had the checkpoint.
"""

import json
import os
import sys
import time

STARTED = time.time()

# ruff: noqa: E402 - the imports are what is timed
from pathlib import Path

import torch

# The first optimizer would import it; here it is counted as what it is.
import torch._dynamo
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from reknit.rank.board import Board, Moment
from workload import CHECKPOINT_STEPS, Config, Noise, make_model, make_optimizer, squared_error

IMPORTED = time.time()


def main(folder: Path, config: Config) -> None:
    """Trains up to the last step, from the checkpoint if there is one."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, world_size = dist.get_rank(), dist.get_world_size()
    model = DistributedDataParallel(make_model())
    optimizer = make_optimizer(list(model.parameters()))
    checkpoint, step = folder / "checkpoint.pt", 0
    if checkpoint.exists():
        saved = torch.load(checkpoint)
        model.module.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        step = saved["step"]
    times = {"rank": rank, "started": STARTED, "imported": IMPORTED, "loaded": time.time()}
    with (folder / "starts.jsonl").open("a") as file:
        file.write(json.dumps({**times, "step": step}) + "\n")
    board, dataset = Board.from_environment(), Noise()
    board.rank = rank
    while step < config.steps:
        board.enter(Moment.DATA, step)
        first = step * config.global_batch + rank * config.global_batch // world_size
        positions = range(first, first + config.global_batch // world_size)
        batch = torch.stack([dataset[position % len(dataset)] for position in positions])
        board.enter(Moment.FORWARD, step)
        loss = squared_error(model, batch)
        board.enter(Moment.BACKWARD, step)
        loss.backward()
        board.enter(Moment.APPLY, step)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        board.enter(Moment.CHECKPOINT, step)
        if step % CHECKPOINT_STEPS == 0 and rank == 0:
            content = {"model": model.module.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save({**content, "step": step}, checkpoint.with_suffix(".new"))
            checkpoint.with_suffix(".new").replace(checkpoint)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Config(**json.loads(sys.argv[2])))
    # Not the interpreter's long way out: nothing is left to be done.
    sys.stdout.flush()
    os._exit(0)
