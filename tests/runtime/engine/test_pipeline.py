"""Training in stages against one plain process on the same global batches."""

from dataclasses import replace

import pytest
from engine_cases import Case
from test_numerics import check

from reknit.layout import Degrees, PipelineSchedule
from reknit.protocol.settings import PipelineSettings

GPIPE, ONE_F_ONE_B, INTERLEAVED = PipelineSchedule


def piped(model: str, schedule: PipelineSchedule, stages: int, data: int = 1, **changes) -> Case:
    per_rank = 2 if schedule is INTERLEAVED else 1
    return replace(
        Case(
            model=model,
            degrees=Degrees(data=data, pipeline=stages),
            num_ranks=data * stages,
            pipeline=PipelineSettings(schedule=schedule, stages_per_rank=per_rank),
            accumulation=4,
            steps=30,
            learning_rate=1e-2,
        ),
        **changes,
    )


@pytest.mark.parametrize(
    ("model", "schedule", "stages", "data"),
    [
        ("layered", GPIPE, 2, 1),
        ("layered", ONE_F_ONE_B, 4, 1),
        ("layered", INTERLEAVED, 2, 1),
        ("row", GPIPE, 4, 1),
        ("row", ONE_F_ONE_B, 2, 2),
        ("row", INTERLEAVED, 2, 2),
    ],
)
def test_stages_train_as_one_process(run_ranks, plain_run, model, schedule, stages, data) -> None:
    check(run_ranks, plain_run, piped(model, schedule, stages, data))
