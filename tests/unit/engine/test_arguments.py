"""What user code may give to job and engine: told alike by a dry run, a rank and a server."""

import socket
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from dryjobs import adam, dataset, engine, loss_fn, make_job, network
from reknit.arguments import check_dataset
from reknit.errors import ConfigurationError
from reknit.job import Job
from reknit.protocol.settings import BatchSettings, JobSettings, ServerSettings
from reknit.rank.channel import Channel
from reknit.trainer.engine import TrainingEngine
from reknit.trainer.job import RankJob
from reknit.trainer.serving import ServerJob
from reknit.trainer.session import Session


class Stream(IterableDataset[int]):
    """Has a length, as such data sets may."""

    def __iter__(self) -> Iterator[int]:
        return iter(range(3))

    def __len__(self) -> int:
        return 3


ENGINE = {
    "a model": (
        {"model": nn.Linear(2, 1)},
        "model must be a function that builds the model, e.g. model=lambda: Net(), not a Linear",
    ),
    "no model": (
        {"model": None},
        "model must be a function that builds the model, e.g. model=lambda: Net(), not a NoneType",
    ),
    "an optimizer": (
        {"optimizer": torch.optim.Adam(nn.Linear(2, 1).parameters())},
        "optimizer must be a function that builds the optimizer, e.g. "
        "optimizer=lambda params: AdamW(params, lr=1e-3), not an Adam",
    ),
    "a schedule": (
        {"schedule": object()},
        "schedule must be a function that builds the schedule, e.g. "
        "schedule=lambda optimizer: CosineAnnealingLR(optimizer, 100), not an object",
    ),
    "one of torch's losses": (
        {"loss": nn.MSELoss()},
        "loss is called as loss(model, micro_batch), e.g. "
        "loss=lambda model, batch: mse_loss(model(batch[0]), batch[1]), which an MSELoss is not "
        "made for",
    ),
    "nothing to clip to": ({"clip_grad_norm": -1.0}, "clip_grad_norm must be positive, not -1.0"),
}
DATA: dict[str, tuple[Any, str]] = {
    "a loader": (
        DataLoader(dataset()),
        "takes a map-style data set, not a DataLoader: Reknit makes the batches, their sizes are "
        "in spec.batch",
    ),
    "a stream": (
        Stream(),
        "takes a map-style data set, not an IterableDataset: Reknit draws samples by their "
        "numbers, in an order of its own",
    ),
    "a generator": (
        (number for number in range(3)),
        "takes a map-style data set, not a generator: it needs __len__ and __getitem__",
    ),
}


@pytest.fixture
def jobs() -> Iterator[dict[str, Job]]:
    """One of each kind, without an agent."""
    batch = BatchSettings(global_batch=8, micro=4)
    settings = JobSettings(name="job", batch=batch)
    served = settings.model_copy(update={"servers": ServerSettings(num_servers=1)})
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        link = Channel(ours, heartbeat=timedelta(seconds=1))
        yield {
            "dry run": make_job(),
            "rank": RankJob(settings, Session(link, settings.degrees), link),
            "server": ServerJob(served, link),
        }


@pytest.mark.parametrize("kind", ["dry run", "rank", "server"])
@pytest.mark.parametrize(("changes", "sentence"), ENGINE.values(), ids=ENGINE)
def test_an_engine_refuses_what_cannot_build_it(
    jobs: dict[str, Job], kind: str, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        jobs[kind].engine(**{"model": network, "optimizer": adam, "loss": loss_fn, **changes})
    assert str(refused.value) == f"job.engine: {sentence}"


@pytest.mark.parametrize(("data", "sentence"), DATA.values(), ids=DATA)
def test_samples_are_drawn_by_number(data: Any, sentence: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        check_dataset(data, "job.batches")
    assert str(refused.value) == f"job.batches: {sentence}"


@pytest.mark.parametrize("kind", ["dry run", "rank"])
def test_batches_are_not_made_of_a_loader(jobs: dict[str, Job], kind: str) -> None:
    with pytest.raises(ConfigurationError, match=r"job\.batches: takes a map-style data set"):
        jobs[kind].batches(DataLoader(dataset()), steps=1)


def test_nothing_is_evaluated_on_a_loader() -> None:
    training: Any = None
    for made in (engine(make_job()), TrainingEngine(training)):
        with pytest.raises(ConfigurationError, match=r"engine\.evaluate: takes a map-style"):
            made.evaluate(DataLoader(dataset()))
