"""A small GPT of `examples/gpt_bytes`, and what its ranks send while they train it."""

import os
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

import torch

import reknit
from gpt_bytes import GPT, corpus_files, next_byte_loss
from gpt_bytes import Config as ModelConfig
from reknit.data import ByteFiles

_ACKED = 120
"""Where Linux's `struct tcp_info` has the bytes that the peer has acknowledged."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Sizes of the workload."""

    depth: int = 2
    context: int = 64
    steps: int = 1000
    """Of the job: rounds, where it takes rounds."""
    learning_rate: float = 3e-3
    evaluate_every: int = 100
    evaluation_samples: int = 512


def sent_bytes() -> int:
    """What this process has sent through the TCP connections that it has, headers left out."""
    total = 0
    for link in Path("/proc/self/fd").iterdir():
        try:
            if not str(link.readlink()).startswith("socket:"):
                continue
            descriptor = os.dup(int(link.name))
        except OSError:
            # Closed since it was listed.
            continue
        with socket.socket(fileno=descriptor) as found:
            if found.family == socket.AF_INET and found.type == socket.SOCK_STREAM:
                info = found.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKED + 8)
                total += struct.unpack_from("<Q", info, _ACKED)[0]
    return total


def train(job: reknit.Job, config: Config) -> None:
    """Trains, and logs what was sent."""
    model = ModelConfig(depth=config.depth, context=config.context)
    training, held_out = corpus_files(model.corpus)
    held_out_data = ByteFiles(held_out, window=config.context + 1)

    def learning_rate(step: int) -> float:
        return 1.0 - 0.9 * step / config.steps

    engine = job.engine(
        model=lambda: GPT(model),
        optimizer=lambda params: torch.optim.AdamW(
            params, lr=config.learning_rate, betas=(0.9, 0.95)
        ),
        loss=next_byte_loss,
        schedule=lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, learning_rate),
        clip_grad_norm=1.0,
    )
    dataset = ByteFiles(training, window=config.context + 1)
    for batch in job.batches(dataset, steps=config.steps):
        before = sent_bytes()
        engine.train_step(batch)
        job.log(measured_bytes=sent_bytes() - before)
        if (batch.step + 1) % config.evaluate_every == 0:
            engine.evaluate(held_out_data, limit=config.evaluation_samples)
