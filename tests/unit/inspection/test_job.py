"""The dry run of user functions, in this process."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import TensorDataset

from dryjobs import WIDTH, dataset, engine, inspect, loss_fn, make_job, network
from reknit.cuts import Column, Row
from reknit.errors import ConfigurationError
from reknit.inspection.job import Inspected, InspectionJob
from reknit.layout import Degrees, Precision, Sharding
from reknit.protocol.settings import (
    BatchSettings,
    JobSettings,
    PipelineSettings,
)


def test_reports_model_optimizer_and_data() -> None:
    job = make_job()
    engine(job)
    found = inspect(job)
    assert [(p.name, p.shape, p.dtype, p.group) for p in found.parameters] == [
        ("0.weight", (WIDTH, WIDTH), "float32", 0),
        ("0.bias", (WIDTH,), "float32", 0),
        ("2.weight", (1, WIDTH), "float32", 0),
        ("2.bias", (1,), "float32", 0),
    ]
    assert found.optimizer == "torch.optim.adam.Adam"
    assert (found.optimizer_tensors, found.elementwise) == (2, True)
    assert (found.num_samples, found.total_steps) == (20, 5)


def piped(**pipeline: Any) -> InspectionJob:
    batch = BatchSettings(global_batch=8, micro=4)
    return InspectionJob(
        JobSettings(
            name="job",
            batch=batch,
            num_workers=2,
            degrees=Degrees(pipeline=2),
            pipeline=PipelineSettings(**pipeline),
        ),
        batch,
    )


@pytest.mark.parametrize(
    ("cut", "stages"),
    [
        ((), [(("0", "1"), WIDTH * WIDTH + WIDTH), (("2",), WIDTH + 1)]),
        (("1",), [(("0",), WIDTH * WIDTH + WIDTH), (("1", "2"), WIDTH + 1)]),
    ],
)
def test_reports_the_stages_of_a_pipeline(cut: tuple[str, ...], stages: list[Any]) -> None:
    job = piped(cut=cut)
    engine(job)
    found = inspect(job).stages
    assert [(stage.layers, stage.num_elements) for stage in found] == stages


@pytest.mark.parametrize(
    ("model", "pipeline", "sentence"),
    [
        (lambda: nn.Linear(WIDTH, 1), {}, "the model Linear cannot be cut into stages"),
        (network, {"cut": ("3",)}, "3 is no layer; the layers are 0, 1, 2"),
        (lambda: nn.Sequential(nn.Linear(WIDTH, 1)), {}, "1 layers do not make 2 stages"),
    ],
)
def test_a_model_that_cannot_be_cut_is_refused(model: Any, pipeline: Any, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        engine(piped(**pipeline), model=model)


def test_takes_no_memory_for_a_model_that_fits_nowhere() -> None:
    job = make_job()
    # A million times a million weights would be 4 TB.
    engine(
        job,
        model=lambda: nn.Linear(10**6, 10**6, bias=False),
        loss=lambda model, batch: model(batch[0]).mean(),
    )
    data = TensorDataset(torch.zeros(1, 10**6).expand(20, 10**6))
    found = inspect(job, data)
    assert found.parameters[0].shape == (10**6, 10**6)


def test_counts_what_autograd_keeps() -> None:
    job = make_job(micro=4)
    engine(job)
    kept = inspect(job).activation_bytes
    # The input, the hidden layer after ReLU (also the input of the next layer), and the
    # difference that is squared; ReLU keeps its own result.
    assert kept == dict.fromkeys(Sharding, 4 * (4 * WIDTH + 4 * WIDTH + 4))


def test_lower_precision_keeps_less_under_zero() -> None:
    job = make_job(Precision.BF16)
    engine(job)
    kept = inspect(job).activation_bytes
    assert kept[Sharding.ZERO1] == kept[Sharding.ZERO3] == 2 * (4 * WIDTH + 4 * WIDTH + 4)
    assert kept[Sharding.NONE] > kept[Sharding.ZERO1]


def test_a_loss_that_looks_at_figures_leaves_activations_unknown() -> None:
    def loss(model: nn.Module, batch: list[torch.Tensor]) -> torch.Tensor:
        found = loss_fn(model, batch)
        return found if found.item() < 100 else found / 2

    job = make_job()
    engine(job, loss=loss)
    assert inspect(job).activation_bytes == {}


def broken_loss(model: nn.Module, batch: list[torch.Tensor]) -> torch.Tensor:
    return model(batch[0].T).mean()


@pytest.mark.parametrize("built_for_real", [False, True])
def test_a_loss_that_cannot_run_is_refused_with_its_error(built_for_real: bool) -> None:
    def model() -> nn.Module:
        made = network()
        if built_for_real:
            float(next(made.parameters()).sum())
        return made

    job = make_job(micro=4)
    engine(job, model=model, loss=broken_loss)
    line = broken_loss.__code__.co_firstlineno + 1
    with pytest.raises(ConfigurationError) as refused:
        inspect(job)
    assert str(refused.value) == (
        "job.engine: the loss raised RuntimeError: addmm: mat1 and mat2 shapes cannot be "
        f"multiplied (16x4 and 16x16) (test_job.py, line {line})"
    )


def test_a_loss_whose_layers_are_to_be_cut_is_refused_with_its_own_error() -> None:
    batch = BatchSettings(global_batch=8, micro=4)
    degrees = Degrees(data=-1, tensor=2)
    job = InspectionJob(JobSettings(name="job", batch=batch, num_workers=2, degrees=degrees), batch)
    engine(job, loss=broken_loss, tensor_plan={"0": Column(), "2": Row()})
    with pytest.raises(ConfigurationError, match="the loss raised RuntimeError: addmm: mat1"):
        inspect(job)


def test_a_loss_of_many_elements_is_refused() -> None:
    job = make_job(micro=4)
    engine(job, loss=lambda model, batch: model(batch[0]) - batch[1])
    with pytest.raises(ConfigurationError, match=r"one element, not \(4, 1\)"):
        inspect(job)


def test_a_loss_that_only_real_tensors_bear_is_not_refused() -> None:
    def loss(model: nn.Module, batch: list[torch.Tensor]) -> torch.Tensor:
        assert type(batch[0]) is torch.Tensor
        return loss_fn(model, batch)

    job = make_job()
    engine(job, loss=loss)
    assert inspect(job).activation_bytes == {}


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Found no NVIDIA driver on your system"),
        NotImplementedError("Could not run 'mine::op' with arguments from the 'CPU' backend"),
        MemoryError(),
    ],
)
def test_a_loss_that_needs_another_machine_is_not_refused(error: Exception) -> None:
    def loss(model: nn.Module, batch: list[torch.Tensor]) -> torch.Tensor:
        raise error

    job = make_job()
    engine(job, loss=loss)
    assert inspect(job).activation_bytes == {}


@pytest.mark.parametrize(
    ("error", "is_refused"),
    [(AttributeError("no size"), True), (RuntimeError("shapes"), False)],
)
def test_a_large_models_loss_is_not_tried(error: Exception, is_refused: bool) -> None:
    built: list[None] = []

    def model() -> nn.Module:
        built.append(None)
        return nn.Linear(10**6, 10**6, bias=False)

    def loss(model: nn.Module, batch: list[torch.Tensor]) -> torch.Tensor:
        raise error

    job = make_job()
    engine(job, model=model, loss=loss)
    if is_refused:
        with pytest.raises(ConfigurationError, match="the loss raised AttributeError: no size"):
            inspect(job)
    else:
        assert inspect(job).activation_bytes == {}
    assert len(built) == 1


def test_a_model_that_looks_at_its_weights_is_built_for_real() -> None:
    def model() -> nn.Module:
        layer = nn.Linear(WIDTH, 1)
        with torch.no_grad():
            layer.weight /= layer.weight.norm().item()
        return layer

    job = make_job()
    engine(job, model=model)
    found = inspect(job)
    assert found.parameters[0].shape == (1, WIDTH)
    assert found.activation_bytes == {}


def test_an_error_of_the_model_is_raised_once_and_alone() -> None:
    def model() -> nn.Module:
        raise ValueError("no such layer")

    with pytest.raises(ValueError, match="no such layer") as caught:
        engine(make_job(), model=model)
    assert caught.value.__context__ is None


def test_tells_groups_frozen_parameters_tied_ones_and_buffers() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(5, 3)
            self.head = nn.Linear(3, 5, bias=True)
            self.head.weight = self.embedding.weight
            self.frozen = nn.Parameter(torch.zeros(2), requires_grad=False)
            self.register_buffer("mean", torch.zeros(7, dtype=torch.float64))

    def optimizer(params: list[nn.Parameter]) -> torch.optim.Optimizer:
        matrices = [p for p in params if p.ndim > 1]
        return torch.optim.SGD(
            [{"params": matrices, "lr": 0.1}, {"params": [p for p in params if p.ndim < 2]}], lr=1.0
        )

    job = make_job()
    engine(job, model=Model, optimizer=optimizer)
    found = job.result()
    assert [(p.name, p.group) for p in found.parameters] == [
        ("frozen", None),
        ("embedding.weight", 0),
        ("head.bias", 1),
    ]
    assert [(b.name, b.shape, b.dtype) for b in found.buffers] == [("mean", (7,), "float64")]


def test_schedules_are_built_too() -> None:
    built: list[Any] = []

    def schedule(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        built.append(optimizer)
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (step + 1))

    job = make_job()
    engine(job, schedule=schedule)
    assert len(built) == 1
    assert isinstance(built[0], torch.optim.Adam)


@pytest.mark.parametrize(
    ("arguments", "total"),
    [({"steps": 3}, 3), ({"epochs": 2}, 5), ({"epochs": 4}, 10)],
)
def test_counts_steps(arguments: dict[str, int], total: int) -> None:
    job = make_job()
    engine(job)
    assert inspect(job, **arguments).total_steps == total


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({}, "exactly one of steps and epochs"),
        ({"steps": 1, "epochs": 1}, "exactly one of steps and epochs"),
        ({"steps": 0}, "nothing to train on"),
    ],
)
def test_refuses_a_length_that_makes_no_sense(arguments: dict[str, int], sentence: str) -> None:
    job = make_job()
    engine(job)
    with pytest.raises(ConfigurationError, match=sentence):
        job.batches(dataset(), **arguments)


def test_refuses_an_empty_data_set() -> None:
    job = make_job()
    engine(job)
    with pytest.raises(ConfigurationError, match="no samples"):
        job.batches([], steps=1)


def test_draws_the_first_micro_batch_through_transform_and_collate() -> None:
    drawn: list[Any] = []

    def transform(sample: Any, generator: torch.Generator) -> Any:
        assert isinstance(generator, torch.Generator)
        return sample + 1

    def collate(samples: list[Any]) -> Any:
        drawn.append(samples)
        return samples

    job = make_job(micro=4)
    engine(job, loss=lambda model, batch: model(torch.ones(len(batch), WIDTH)).mean())
    inspect(job, list(range(10)), steps=1, transform=transform, collate=collate, shuffle=False)
    assert drawn == [[1, 2, 3, 4]]


def test_errors_of_the_data_set_are_the_users() -> None:
    class Broken:
        def __len__(self) -> int:
            return 10

        def __getitem__(self, index: int) -> Any:
            raise OSError("disk is gone")

    job = make_job()
    engine(job)
    with pytest.raises(OSError, match="disk is gone"):
        job.batches(Broken(), steps=1)


def test_no_except_of_the_user_stops_the_end_of_the_dry_run() -> None:
    job = make_job()
    engine(job)

    def train() -> str:
        try:
            job.batches(dataset(), steps=1)
        except Exception:
            return "went on"
        return "went on"

    with pytest.raises(Inspected):
        train()


def test_an_evaluation_before_training_checks_its_data() -> None:
    job = make_job()
    made = engine(job)
    assert math.isnan(made.evaluate(dataset(), limit=3))
    with pytest.raises(ConfigurationError, match="no samples"):
        made.evaluate([])


def test_a_function_that_trains_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"without calling job\.engine"):
        make_job().result()


def test_an_engine_is_made_once() -> None:
    job = make_job()
    engine(job)
    with pytest.raises(ConfigurationError, match="called once"):
        engine(job)


def test_refuses_what_cannot_be_trained() -> None:
    def frozen() -> nn.Module:
        return network().requires_grad_(False)

    with pytest.raises(ConfigurationError, match="no trainable parameters"):
        engine(make_job(), model=frozen, optimizer=lambda _: torch.optim.SGD([matrix()]))
    with pytest.raises(ConfigurationError, match="clip_grad_norm must be positive, not 0"):
        engine(make_job(), clip_grad_norm=0)


def matrix() -> nn.Parameter:
    return nn.Parameter(torch.zeros(1))


def test_pretrained_weights_must_fit(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.safetensors", tmp_path / "bad.safetensors"
    state = {name: torch.ones_like(tensor) for name, tensor in network().state_dict().items()}
    save_file(state, good)
    save_file({**state, "0.bias": torch.ones(WIDTH + 1)}, bad)
    engine(make_job(), pretrained=good)
    with pytest.raises(ConfigurationError, match=r"0\.bias"):
        engine(make_job(), pretrained=bad)
    with pytest.raises(ConfigurationError, match="no file"):
        engine(make_job(), pretrained=tmp_path / "missing.safetensors")


def test_the_job_looks_like_rank_zero_of_the_whole_world() -> None:
    job = make_job()
    assert (job.rank, job.world_size, job.seed, job.state) == (0, 2, 0, {})
    job.log(accuracy=0.5)
