"""The dry run as a process: what it writes, and what it leaves to the screen."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from reknit.inspection.main import inspect
from reknit.protocol.inspection import INSPECTION_RESULT, Inspection, InspectionFailure
from reknit.protocol.settings import ENV_JOB, BatchSettings, JobSettings

WriteModule = Callable[[str], str]

TRAINING = """
    from dataclasses import dataclass
    import torch
    from torch import nn

    @dataclass
    class Config:
        width: int = 4
        fail: bool = False

    def build(config):
        if config.fail:
            raise RuntimeError("the model cannot be built")
        return nn.Linear(config.width, 1)

    def train(job, config: Config):
        print("hello from the program")
        engine = job.engine(
            model=lambda: build(config),
            optimizer=lambda params: torch.optim.SGD(params, lr=0.1),
            loss=lambda model, batch: model(batch).mean(),
        )
        for batch in job.batches([torch.zeros(config.width)] * 10, epochs=1):
            engine.train_step(batch)
        raise AssertionError("the dry run goes no further")
"""


def settings(name: str, **config: object) -> JobSettings:
    return JobSettings.model_validate(
        {
            "name": "job",
            "function": name,
            "config": config,
            "batch": BatchSettings(global_batch=4, micro=2),
        }
    )


def test_describes_the_configuration_with_its_defaults(user_module: WriteModule) -> None:
    found = inspect(settings(f"{user_module(TRAINING)}:train", width="6"))
    assert isinstance(found, Inspection)
    assert found.config == {"width": 6, "fail": False}
    assert found.parameters[0].shape == (1, 6)


def test_lists_all_problems_of_the_configuration(user_module: WriteModule) -> None:
    found = inspect(settings(f"{user_module(TRAINING)}:train", width="x", wdth=3))
    assert isinstance(found, InspectionFailure)
    assert [problem.partition(":")[0] for problem in found.problems] == [
        "spec.entrypoint.config.wdth",
        "spec.entrypoint.config.width",
    ]
    assert found.traceback is None


def test_a_failure_shows_the_users_frames_alone(user_module: WriteModule) -> None:
    name = user_module(TRAINING)
    found = inspect(settings(f"{name}:train", fail=True))
    assert isinstance(found, InspectionFailure)
    assert found.traceback is not None
    assert found.traceback.endswith("RuntimeError: the model cannot be built\n")
    frames = [line for line in found.traceback.splitlines() if line.startswith('  File "')]
    assert len(frames) == 3  # train, the lambda, build
    assert all(f"{name}.py" in frame for frame in frames)
    assert found.problems == (
        f"spec.entrypoint.function: {name}:train raised RuntimeError: the model cannot be built",
    )


def test_a_loss_that_cannot_run_is_told_by_a_sentence_with_the_users_line(
    user_module: WriteModule,
) -> None:
    name = user_module(TRAINING.replace("model(batch)", "model(batch.T)"))
    found = inspect(settings(f"{name}:train"))
    assert isinstance(found, InspectionFailure)
    assert found.traceback is None
    (problem,) = found.problems
    assert problem.startswith("job.engine: the loss raised RuntimeError: addmm: mat1")
    assert problem.endswith(f" ({name}.py, line 21)")


def test_tells_the_fields_of_the_functions_own_type(user_module: WriteModule) -> None:
    found = inspect(settings(f"{user_module(TRAINING)}:train"))
    assert isinstance(found, Inspection)
    assert found.config_fields == ("width", "fail")
    untyped = TRAINING.replace("config: Config", "values")
    untyped = untyped.replace("print(", "config = Config(**values); print(")
    found = inspect(settings(f"{user_module(untyped)}:train", width=3))
    assert isinstance(found, Inspection)
    assert (found.config, found.config_fields) == ({"width": 3}, ())


def test_a_module_that_fails_on_import_shows_its_own_frames(user_module: WriteModule) -> None:
    name = user_module("import a_module_that_is_missing")
    found = inspect(settings(f"{name}:train"))
    assert isinstance(found, InspectionFailure)
    assert found.traceback is not None
    frames = [line for line in found.traceback.splitlines() if line.startswith('  File "')]
    assert len(frames) == 1
    assert f"{name}.py" in frames[0]


def test_sys_exit_of_the_users_code_is_a_failure(user_module: WriteModule) -> None:
    found = inspect(settings(f"{user_module('raise SystemExit(3)')}:train"))
    assert isinstance(found, InspectionFailure)
    assert found.problems[0].endswith("raised SystemExit: 3")


def test_the_process_writes_one_line_and_prints_go_elsewhere(user_module: WriteModule) -> None:
    name = user_module(TRAINING)
    folder = Path(sys.path[0])
    process = subprocess.run(
        [sys.executable, "-P", "-m", "reknit.inspection"],
        env={
            **os.environ,
            ENV_JOB: settings(f"{name}:train").model_dump_json(),
            "PYTHONPATH": str(folder),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    found = INSPECTION_RESULT.validate_json(process.stdout)
    assert isinstance(found, Inspection)
    assert (found.num_samples, found.total_steps) == (10, 2)
    assert found.warm_start_obstacle is None
    assert process.stderr == "hello from the program\n"
