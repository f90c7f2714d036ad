"""What people write without Reknit: a DDP script and a DeepSpeed script, started by torchrun.

Both train the model of `workload.py` on the same samples in the same order. Rank 0 prints one line
of JSON with the time at which each step was complete.
"""

import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext

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


def train_ddp(config: Config) -> list[float]:
    """Seconds since the epoch at which each step was complete."""
    dist.init_process_group("gloo")
    model = DistributedDataParallel(make_model(config))
    optimizer = make_optimizer(list(model.parameters()))
    batches = micro_batches(config, dist.get_rank(), dist.get_world_size())
    accumulation = config.global_batch // config.micro // dist.get_world_size()
    done = []
    for _ in range(config.steps):
        for index in range(accumulation):
            with nullcontext() if index == accumulation - 1 else model.no_sync():
                (next_byte_loss(model, next(batches)) / accumulation).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        done.append(time.time())
    return done


def train_deepspeed(config: Config) -> list[float]:
    """Seconds since the epoch at which each step was complete, under ZeRO-2."""
    import deepspeed

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
    done = []
    for _ in range(config.steps):
        for _ in range(accumulation):
            engine.backward(next_byte_loss(engine, next(batches)))
            engine.step()
        done.append(time.time())
    return done


def main() -> None:
    """Trains as the first argument says: ddp or deepspeed; the second is the workload's JSON."""
    torch.set_num_threads(1)
    train = {"ddp": train_ddp, "deepspeed": train_deepspeed}[sys.argv[1]]
    done = train(Config(**json.loads(sys.argv[2])))
    if os.environ["RANK"] == "0":
        print(json.dumps(done), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
