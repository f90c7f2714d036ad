"""The example's model, by a function that tells of every step, for the tests of a cluster."""

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch

import gpt_bytes
import reknit
from reknit.data import ByteFiles


@dataclass(frozen=True, kw_only=True)
class Config(gpt_bytes.Config):
    """What the manifest may set."""

    depth: int = 1
    context: int = 32
    steps: int = 120
    pace: float = 0.05
    """Seconds that a step takes at least, so that faults can be timed on any machine."""
    hold_step: int | None = None
    """Before this step all ranks wait until the test has made the file GO in their pods."""
    hoard_rank: int | None = None
    """A rank that takes more memory than its container has."""
    hoard_step: int = 0


GO = Path("/dev/shm/go")


def digest(model: torch.nn.Module) -> str:
    """A hash of all parameters, which every rank holds whole under ZeRO-2."""
    found = hashlib.sha256()
    for parameter in model.parameters():
        found.update(parameter.detach().numpy().tobytes())
    return found.hexdigest()[:16]


def hoard() -> None:
    """Takes memory until there is no more."""
    taken = []
    while True:
        taken.append(bytearray(b"x" * 2**24))


def train(job: reknit.Job, config: Config) -> None:
    """Trains, and prints a line of JSON for each step."""
    training, _ = gpt_bytes.corpus_files(config.corpus)
    models: list[torch.nn.Module] = []

    def build() -> torch.nn.Module:
        models.append(gpt_bytes.GPT(config))
        return models[-1]

    engine = job.engine(
        model=build,
        optimizer=lambda params: torch.optim.AdamW(params, lr=config.learning_rate),
        loss=gpt_bytes.next_byte_loss,
        clip_grad_norm=1.0,
    )
    for batch in job.batches(ByteFiles(training, window=config.context + 1), steps=config.steps):
        time.sleep(config.pace)
        while batch.step == config.hold_step and not GO.exists():
            time.sleep(0.02)
        if (job.rank, batch.step) == (config.hoard_rank, config.hoard_step):
            hoard()
        loss = engine.train_step(batch)
        told = {"rank": job.rank, "step": batch.step + 1, "loss": loss, "time": time.time()}
        print("STEP " + json.dumps({**told, "weights": digest(models[-1])}), flush=True)
