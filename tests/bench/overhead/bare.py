"""What people write without Reknit: a DDP script and a DeepSpeed script, started by torchrun.

Both train the model of `workload.py`, from the weights that Reknit begins with, on the same samples
in the same order. Rank 0 tells of its steps in a file, a line of JSON for each: the time at which
it was complete, seconds since the epoch, and for the last one the mean loss.
"""

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TypeAlias

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Subset

from reknit.data.order import DataOrder
from reknit.layout import BatchPlan
from workload import Config, corpus, make_model, make_optimizer, next_byte_loss


def micro_batches(config: Config, rank: int, num_ranks: int) -> Iterator[torch.Tensor]:
    """This rank's micro-batches of all steps, as a DataLoader yields them."""
    dataset = corpus(config)
    order = DataOrder(len(dataset), seed=0)
    plan = BatchPlan(config.global_batch, config.micro, num_ranks)
    samples = [
        sample
        for step in range(config.steps)
        for index in plan.micro_batches(rank)
        if index is not None
        for sample in order.samples(plan.positions(step, index))
    ]
    yield from DataLoader(Subset(dataset, samples), batch_size=config.micro)


Tell: TypeAlias = Callable[[torch.Tensor], None]
"""A step is complete; its loss on this rank."""


def train_ddp(config: Config, tell: Tell) -> None:
    """As a script with torch alone does it."""
    dist.init_process_group("gloo")
    model = DistributedDataParallel(make_model(config))
    optimizer = make_optimizer(list(model.parameters()))
    batches = micro_batches(config, dist.get_rank(), dist.get_world_size())
    accumulation = config.global_batch // config.micro // dist.get_world_size()
    for _ in range(config.steps):
        total = torch.zeros(())
        for index in range(accumulation):
            with nullcontext() if index == accumulation - 1 else model.no_sync():
                loss = next_byte_loss(model, next(batches)) / accumulation
                loss.backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        tell(total)


def train_deepspeed(config: Config, tell: Tell) -> None:
    """As a script with DeepSpeed does it, under ZeRO-2."""
    import deepspeed

    # Gloo for both contestants. Where a compiler is present, DeepSpeed would build shared-memory
    # collectives for ranks of one CPU machine, which Reknit leaves out as they gave wrong gradient
    # norms; this is what DeepSpeed finds by itself where there is none.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.utils.logger.setLevel(logging.ERROR)
    deepspeed.init_distributed("gloo")
    accumulation = config.global_batch // config.micro // dist.get_world_size()
    model = make_model(config)
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=make_optimizer(list(model.parameters())),
        config={
            "train_micro_batch_size_per_gpu": config.micro,
            "gradient_accumulation_steps": accumulation,
            "gradient_clipping": 1.0,
            "zero_optimization": {"stage": 2},
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "steps_per_print": 10_000_000,
        },
    )
    batches = micro_batches(config, dist.get_rank(), dist.get_world_size())
    for _ in range(config.steps):
        total = torch.zeros(())
        for _ in range(accumulation):
            loss = next_byte_loss(engine, next(batches))
            engine.backward(loss)
            engine.step()
            total += loss.detach() / accumulation
        tell(total)


class Teller:
    """Writes down when steps are complete.

    Args:
        file: of all steps; only rank 0 writes there.
        num_steps: after which the ranks put their losses together.
    """

    def __init__(self, file: str, num_steps: int) -> None:
        path = Path(file if os.environ["RANK"] == "0" else os.devnull)
        self._lines = path.open("w", buffering=1)
        self._remaining = num_steps

    def __call__(self, loss: torch.Tensor) -> None:
        done = time.time()
        self._remaining -= 1
        metrics = {}
        if self._remaining == 0:
            dist.all_reduce(loss)
            metrics = {"loss": float(loss) / dist.get_world_size()}
        record = {"kind": "step", "time": done, "metrics": metrics}
        self._lines.write(json.dumps(record) + "\n")


def main() -> None:
    """Trains as the first argument says: ddp or deepspeed; then the workload's JSON, and a file."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    train = {"ddp": train_ddp, "deepspeed": train_deepspeed}[sys.argv[1]]
    config = Config(**json.loads(sys.argv[2]))
    train(config, Teller(sys.argv[3], config.steps))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
