"""The dry run of jobs whose layers are cut, or whose parameters are on servers."""

from typing import Any

import pytest
import torch
from torch import nn

from dryjobs import WIDTH, engine, inspect, network
from reknit.cuts import Column, Row
from reknit.errors import ConfigurationError
from reknit.inspection.job import InspectionJob
from reknit.layout import Degrees, Sharding
from reknit.protocol.settings import (
    BatchSettings,
    JobSettings,
    ServerSettings,
)


class Halves(nn.Module):
    """Splits what its first layer gives in two; `fixed` takes its width for granted."""

    def __init__(self, fixed: bool = False) -> None:
        super().__init__()
        self.up = nn.Linear(WIDTH, 4 * WIDTH)
        self.down = nn.Linear(2 * WIDTH, 1)
        self.width = 2 * WIDTH if fixed else -1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, value = self.up(x).chunk(2, dim=-1)
        return self.down((gate.sigmoid() * value).view(len(x), self.width))


HALVES = {"up": Column(blocks=2), "down": Row()}


def cut_job(degree: int) -> InspectionJob:
    batch = BatchSettings(global_batch=8, micro=4)
    degrees = Degrees(data=-1, tensor=degree)
    return InspectionJob(
        JobSettings(name="job", batch=batch, num_workers=4, degrees=degrees), batch
    )


def test_layers_that_are_cut_are_told_and_keep_less_for_backward() -> None:
    kept = {}
    for degree in (1, 2, 4):
        job = cut_job(degree)
        engine(job, model=Halves, tensor_plan=HALVES)
        found = inspect(job)
        assert [p.name for p in found.parameters if p.divided] == [
            "up.weight",
            "up.bias",
            "down.weight",
        ]
        assert found.parameters[0].shape == (4 * WIDTH, WIDTH)
        kept[degree] = found.activation_bytes[Sharding.NONE]
    assert kept[4] < kept[2] < kept[1]


def test_a_model_that_counts_on_whole_activations_is_refused() -> None:
    job = cut_job(2)
    engine(job, model=lambda: Halves(fixed=True), tensor_plan=HALVES)
    with pytest.raises(ConfigurationError, match="cannot compute its loss, because between"):
        inspect(job)


@pytest.mark.parametrize(
    ("degree", "plan", "sentence"),
    [
        (2, None, "parallelism.tensor is 2, but nothing says which layers are cut"),
        (2, {"middle": Row()}, "the model has no module middle"),
        (1, {"middle": Row()}, "the model has no module middle"),
    ],
)
def test_a_plan_that_does_not_fit_the_model_is_refused(degree: int, plan: Any, sentence: str):
    with pytest.raises(ConfigurationError, match=sentence):
        engine(cut_job(degree), model=Halves, tensor_plan=plan)


def served() -> InspectionJob:
    batch = BatchSettings(global_batch=8, micro=4)
    servers = ServerSettings(num_servers=2)
    return InspectionJob(JobSettings(name="job", batch=batch, servers=servers), batch)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"clip_grad_norm": 1.0}, "the norm of the whole gradient is known nowhere"),
        ({"optimizer": torch.optim.Adafactor}, "works element by element, which Adafactor does"),
    ],
)
def test_what_parameter_servers_cannot_do_is_refused(
    changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        engine(served(), **changes)


def test_a_function_for_parameter_servers_has_no_rank_before_its_engine() -> None:
    job = served()
    with pytest.raises(ConfigurationError, match="servers, which have no rank"):
        _ = job.rank
    engine(job)
    assert job.rank == 0


def test_sparse_embeddings_are_tables() -> None:
    job = served()
    engine(
        job,
        model=lambda: nn.Sequential(nn.Embedding(8, WIDTH, sparse=True), network()),
        loss=lambda model, batch: model(batch[0].long()).mean(),
    )
    assert inspect(job).tables == ("0.weight",)
