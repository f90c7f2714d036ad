"""Training in stages against one plain process on the same global batches."""

from dataclasses import replace

import pytest
from engine_cases import Case, assemble
from test_numerics import check

from reknit.layout import Degrees, PipelineSchedule, Precision, Sharding
from reknit.protocol.settings import PipelineSettings

GPIPE, ONE_F_ONE_B, INTERLEAVED = PipelineSchedule
BEFORE, STEPS = 3, 6


def piped(model: str, schedule: PipelineSchedule, stages: int, data: int = 1, /, **changes) -> Case:
    per_rank = 2 if schedule is INTERLEAVED else 1
    case = Case(
        model=model,
        degrees=Degrees(data=data, pipeline=stages),
        num_ranks=data * stages,
        pipeline=PipelineSettings(schedule=schedule, stages_per_rank=per_rank),
        micro=2,
        steps=30,
        learning_rate=1e-2,
    )
    return replace(case, **changes)


@pytest.mark.parametrize(
    ("model", "schedule", "stages", "data"),
    [
        ("layered", ONE_F_ONE_B, 4, 1),
        ("layered", INTERLEAVED, 2, 2),
        ("row", GPIPE, 4, 1),
        pytest.param("layered", GPIPE, 2, 1, marks=pytest.mark.long),
        pytest.param("row", ONE_F_ONE_B, 2, 2, marks=pytest.mark.long),
        pytest.param("row", INTERLEAVED, 2, 1, marks=pytest.mark.long),
    ],
)
def test_stages_train_as_one_process(run_ranks, plain_run, model, schedule, stages, data) -> None:
    """Tied weights, dropout, buffers, a frozen layer; parameter groups, layers in place.

    BatchNorm's averages are those of one process only without data parallelism, but they take no
    part in training.
    """
    check(run_ranks, plain_run, piped(model, schedule, stages, data))


@pytest.mark.parametrize("precision", [Precision.BF16, Precision.FP16])
def test_lower_precisions_are_those_of_one_rank(run_ranks, precision) -> None:
    """Autocast, and under FP16 the loss scale: the same numbers in the same order."""
    case = piped("layered", ONE_F_ONE_B, 2, precision=precision, steps=8)
    alone = replace(case, degrees=Degrees(), num_ranks=1)
    run, expected = (run_ranks("train", each.num_ranks, each)[0] for each in (case, alone))
    assert run.skipped == expected.skipped
    assert run.losses == pytest.approx(expected.losses, rel=1e-3)


def test_a_pipeline_may_run_a_pass_of_weight_zero(run_ranks, plain_run) -> None:
    """Three micro-batches in two pipelines."""
    case = piped("row", ONE_F_ONE_B, 2, 2, global_batch=12, micro=4, steps=5)
    run = run_ranks("train", 4, case)[0]
    assert run.losses == pytest.approx(plain_run(case).losses, rel=1e-6)


CASES = {
    "stages": piped("layered", ONE_F_ONE_B, 4, steps=STEPS, clip=0.5, schedule=True),
    "pipelines": piped("layered", INTERLEAVED, 2, 2, steps=STEPS, clip=0.5, schedule=True),
    "one rank": replace(
        piped("layered", GPIPE, 1, steps=STEPS, clip=0.5, schedule=True), degrees=Degrees()
    ),
    "ZeRO": replace(
        piped("layered", GPIPE, 1, steps=STEPS, clip=0.5, schedule=True),
        degrees=Degrees(),
        num_ranks=2,
        sharding=Sharding.ZERO2,
    ),
}


@pytest.fixture(scope="module")
def states(run_ranks):
    """The states at step `BEFORE` of runs that go no further."""
    known = {}

    def get(name: str):
        if name not in known:
            case = CASES[name]
            runs = run_ranks("train", case.num_ranks, replace(case, steps=BEFORE))
            known[name] = assemble([run.state for run in runs])
        return known[name]

    return get


@pytest.mark.parametrize("name", ["stages", "pipelines"])
def test_a_resumed_pipeline_is_the_uninterrupted_one_bit_for_bit(run_ranks, states, name) -> None:
    case = CASES[name]
    whole = run_ranks("train", case.num_ranks, case)
    resumed = run_ranks("train", case.num_ranks, case, states(name))
    assert [run.losses for run in resumed] == [run.losses[BEFORE:] for run in whole]
    expected, found = (assemble([run.state for run in runs]) for runs in (whole, resumed))
    assert found.scalars == expected.scalars
    assert all(found.tensors[key].equal(tensor) for key, tensor in expected.tensors.items())


@pytest.mark.parametrize(
    ("before", "after"),
    [("stages", "one rank"), ("one rank", "pipelines"), ("pipelines", "ZeRO"), ("ZeRO", "stages")],
)
def test_a_state_moves_between_layouts(run_ranks, states, plain_run, before, after) -> None:
    case = CASES[after]
    run = run_ranks("train", case.num_ranks, case, states(before))[0]
    assert run.losses == pytest.approx(plain_run(CASES["one rank"]).losses[BEFORE:], rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": "transformer"}, "the model Transformer cannot be cut into stages"),
        ({"optimizer": "Adafactor"}, "the optimizer Adafactor needs whole tensors"),
        ({"model": "empty group"}, "a parameter group without parameters"),
        (
            {"pipeline": PipelineSettings(cut=("mixers.7",))},
            "mixers.7 is no layer; the layers are first, mixers.0, mixers.1, mixers.2, last",
        ),
        ({"model": "groups", "num_ranks": 4}, "3 layers do not make 4 stages"),
    ],
)
def test_what_cannot_be_cut_is_refused(run_ranks, changes, sentence) -> None:
    case = piped("layered", ONE_F_ONE_B, 2, steps=1)
    case = replace(case, **changes)
    case = replace(case, degrees=Degrees(pipeline=case.num_ranks))
    assert all(sentence in told for told in run_ranks("refusal", case.num_ranks, case))
