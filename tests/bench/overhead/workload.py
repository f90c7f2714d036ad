"""The model, the data and the steps that are timed: the GPT of `examples/gpt_bytes`."""

from dataclasses import dataclass

import torch
from torch import nn

import reknit
from gpt_bytes import GPT, corpus_files, next_byte_loss
from gpt_bytes import Config as ModelConfig
from reknit.data import ByteFiles

__all__ = ["Config", "corpus", "make_model", "make_optimizer", "next_byte_loss", "train"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Sizes of the workload."""

    depth: int = 6
    steps: int = 64
    global_batch: int = 32
    micro: int = 8


def corpus(config: Config) -> ByteFiles:
    """The training files of the example."""
    model = ModelConfig(depth=config.depth)
    return ByteFiles(corpus_files(model.corpus)[0], window=model.context + 1)


def make_model(config: Config) -> nn.Module:
    """The example's model."""
    return GPT(ModelConfig(depth=config.depth))


def make_optimizer(params: list[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer of every contestant."""
    return torch.optim.AdamW(params, lr=1e-3)


def train(job: reknit.Job, config: Config) -> None:
    """The same training through Reknit."""
    engine = job.engine(
        model=lambda: make_model(config),
        optimizer=make_optimizer,
        loss=next_byte_loss,
        clip_grad_norm=1.0,
    )
    for batch in job.batches(corpus(config), steps=config.steps):
        engine.train_step(batch)
