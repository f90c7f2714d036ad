"""What people write without Reknit: a DDP script and a DeepSpeed script, started by torchrun.

Both train the model of `workload.py`, from the weights that Reknit begins with, on the same samples
in the same order. Rank 0 prints one line of JSON: the time at which each step was complete, seconds
since the epoch, and the mean loss of the last step.
"""

import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
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


Outcome: TypeAlias = tuple[list[float], float]
"""Seconds since the epoch at which each step was complete, and this rank's loss of the last one."""


def train_ddp(config: Config) -> Outcome:
    """As a script with torch alone does it."""
    dist.init_process_group("gloo")
    model = DistributedDataParallel(make_model(config))
    optimizer = make_optimizer(list(model.parameters()))
    batches = micro_batches(config, dist.get_rank(), dist.get_world_size())
    accumulation = config.global_batch // config.micro // dist.get_world_size()
    done, total = [], torch.zeros(())
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
        done.append(time.time())
    return done, float(total)


def train_deepspeed(config: Config) -> Outcome:
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
    done, total = [], torch.zeros(())
    for _ in range(config.steps):
        total = torch.zeros(())
        for _ in range(accumulation):
            loss = next_byte_loss(engine, next(batches))
            engine.backward(loss)
            engine.step()
            total += loss.detach() / accumulation
        done.append(time.time())
    return done, float(total)


def main() -> None:
    """Trains as the first argument says: ddp or deepspeed; the second is the workload's JSON."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    train = {"ddp": train_ddp, "deepspeed": train_deepspeed}[sys.argv[1]]
    done, loss = train(Config(**json.loads(sys.argv[2])))
    mean = torch.tensor(loss)
    dist.all_reduce(mean)
    if os.environ["RANK"] == "0":
        print(json.dumps({"done": done, "loss": float(mean) / dist.get_world_size()}), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
