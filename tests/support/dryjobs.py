"""Jobs whose functions run dry, in this process."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from reknit.inspection.job import Inspected, InspectionJob
from reknit.layout import Precision
from reknit.protocol.inspection import Inspection
from reknit.protocol.settings import BatchSettings, JobSettings

WIDTH = 16


def make_job(precision: Precision = Precision.FP32, *, micro: int = 4) -> InspectionJob:
    batch = BatchSettings(global_batch=8, micro=micro)
    settings = JobSettings(name="job", batch=batch, num_workers=2, precision=precision)
    return InspectionJob(settings, batch)


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 1))


def loss_fn(model: nn.Module, batch: list[torch.Tensor]) -> torch.Tensor:
    inputs, targets = batch
    loss: torch.Tensor = (model(inputs) - targets).square().mean()
    return loss


def dataset(num_samples: int = 20) -> Any:
    return TensorDataset(torch.zeros(num_samples, WIDTH), torch.zeros(num_samples, 1))


def adam(params: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Adam(params)


def engine(job: InspectionJob, **changes: Any) -> Any:
    return job.engine(**{"model": network, "optimizer": adam, "loss": loss_fn, **changes})


def inspect(job: InspectionJob, data: Any = None, **arguments: Any) -> Inspection:
    with pytest.raises(Inspected):
        job.batches(dataset() if data is None else data, **(arguments or {"steps": 5}))
    return job.result()
