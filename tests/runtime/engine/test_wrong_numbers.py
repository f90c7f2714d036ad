"""Wrong numbers in a gradient: what is committed, and who is named."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ranks import Rank, Ranks
from safetensors.torch import load_file

from reknit.layout import Degrees, Precision, Sharding
from reknit.protocol.outcome import ExitClass
from reknit.protocol.ranks import MEMORY, Failed, Finished, Resumed, StepDone, WrongNumbers
from reknit.protocol.settings import (
    CheckpointSettings,
    CommunicationSettings,
    JobSettings,
    NumberSettings,
    OnBadData,
    RoundSettings,
)

STEPS = 24
STRATEGIES = pytest.mark.parametrize(
    "sharding", [Sharding.NONE, Sharding.ZERO2, Sharding.ZERO3, Sharding.FSDP]
)


@pytest.fixture
def job(settings: JobSettings, tmp_path: Path) -> Callable[..., JobSettings]:
    """job(name, sharding, numbers=None, **config): a job of its own folder."""

    def make(
        name: str,
        sharding: Sharding = Sharding.NONE,
        numbers: NumberSettings | None = None,
        **config: Any,
    ) -> JobSettings:
        marks = tmp_path / f"{name}-marks"
        marks.mkdir()
        return settings.model_copy(
            update={
                "sharding": sharding,
                "precision": Precision.FP32,
                "numbers": numbers or NumberSettings(),
                "config": {"steps": STEPS, "graves": str(marks), **config},
                "checkpoint": CheckpointSettings(path=str(tmp_path / name), every_seconds=None),
            }
        )

    return make


def finish(group: list[Rank]) -> None:
    assert [rank.until(Finished).left for rank in group] == [False] * len(group)
    assert [rank.end() for rank in group] == [0] * len(group)


def steps_of(ranks: list[Rank]) -> dict[int, StepDone]:
    return {done.step: done for rank in ranks for done in rank.all(StepDone)}


def losses(ranks: list[Rank]) -> dict[int, float]:
    return {step: done.metrics["loss"] for step, done in steps_of(ranks).items()}


def assert_same_weights(tmp_path: Path, name: str) -> None:
    weights = load_file(tmp_path / name / "model.safetensors")
    for key, tensor in load_file(tmp_path / "whole" / "model.safetensors").items():
        assert weights[key].equal(tensor), key


def undisturbed(ranks: Ranks, settings: JobSettings, num_ranks: int = 4) -> dict[int, float]:
    group = ranks.start(settings, num_ranks)
    finish(group)
    assert group[0].all(WrongNumbers) == []
    return losses(group)


@pytest.mark.parametrize(
    ("sharding", "value"),
    [
        (Sharding.NONE, "nan"),
        (Sharding.NONE, "1e5"),
        (Sharding.ZERO2, "flip"),
        (Sharding.ZERO3, "1e5"),
        (Sharding.FSDP, "flip"),
    ],
)
def test_what_was_wrong_once_is_not_committed_and_its_rank_is_named(
    ranks, job, tmp_path, sharding, value
):
    numbers = NumberSettings(outlier_factor=10.0)
    expected = undisturbed(ranks, job("whole", sharding, numbers))
    group = ranks.start(job("struck", sharding, numbers, wrong=(2, 20, value, False)), 4)
    finish(group)
    (found,) = group[0].all(WrongNumbers)
    assert (found.step, found.blame, found.ranks) == (20, "Passing", (2,))
    assert losses(group) == expected
    assert_same_weights(tmp_path, "struck")


TWO_PIPELINES = Degrees(data=2, pipeline=2)


def test_all_stages_that_share_what_was_wrong_are_named(ranks, job, tmp_path):
    """Rank 1 is the first stage of the second pipeline, and rank 3 the other one."""
    settings = job("whole").model_copy(update={"degrees": TWO_PIPELINES})
    expected = undisturbed(ranks, settings)
    settings = job("struck", wrong=(1, 5, "nan", False))
    group = ranks.start(settings.model_copy(update={"degrees": TWO_PIPELINES}), 4)
    finish(group)
    (found,) = group[0].all(WrongNumbers)
    assert (found.step, found.blame, found.ranks) == (5, "Passing", (1, 3))
    assert losses(group) == expected
    assert_same_weights(tmp_path, "struck")


def test_all_stages_of_a_pipeline_that_stays_wrong_are_replaced(ranks, job, tmp_path):
    settings = job("whole").model_copy(update={"degrees": TWO_PIPELINES})
    expected = undisturbed(ranks, settings)
    settings = job("struck", wrong=(1, 3, "nan", True))
    settings = settings.model_copy(update={"degrees": TWO_PIPELINES})
    group = ranks.start(settings, 4)
    everyone = list(group)
    for victim in (1, 3):
        error = group[victim].until(Failed).error
        assert error.exit_class is ExitClass.WRONG_NUMBERS
        assert "computed on rank 1 and rank 3 again and again" in error.exception
        assert group[victim].exit_status() == 65
    ranks.abort([group[0], group[2]], 1)
    group[1], group[3] = (ranks.park(settings) for _ in range(2))
    everyone += [group[1], group[3]]
    ranks.assign(group, 2)
    finish(group)
    assert [message.source for message in group[0].all(Resumed)][-1] == MEMORY
    assert losses(everyone) == expected
    assert_same_weights(tmp_path, "struck")


@pytest.mark.parametrize(
    ("sharding", "victim"),
    [(Sharding.NONE, 0), (Sharding.ZERO2, 3), (Sharding.ZERO3, 0), (Sharding.FSDP, 3)],
)
def test_a_rank_that_stays_wrong_is_named_and_replaced(ranks, job, tmp_path, sharding, victim):
    expected = undisturbed(ranks, job("whole", sharding))
    settings = job("struck", sharding, wrong=(victim, 3, "nan", True))
    group = ranks.start(settings, 4)
    everyone = list(group)
    error = group[victim].until(Failed).error
    assert error.exit_class is ExitClass.WRONG_NUMBERS
    assert f"computed on rank {victim} again and again" in error.exception
    assert group[victim].exit_status() == 65
    ranks.abort([rank for rank in group if rank is not group[victim]], 1)
    group[victim] = ranks.park(settings)
    everyone.append(group[victim])
    ranks.assign(group, 2)
    finish(group)
    assert [message.source for message in group[0].all(Resumed)][-1] == MEMORY
    assert losses(everyone) == expected
    assert_same_weights(tmp_path, "struck")


def test_bad_data_halt_the_job_and_are_named(ranks, job):
    group = ranks.start(job("bad", bad_sample=7), 2)
    errors = [rank.until(Failed).error for rank in group]
    assert errors[0].exception == errors[1].exception
    assert errors[0].exit_class is ExitClass.PROGRAM_ERROR
    sentence = errors[0].exception
    samples = sentence.partition("(samples ")[2].partition(")")[0].split(", ")
    assert "7" in samples and len(samples) == 2, sentence


@STRATEGIES
def test_bad_data_are_skipped_if_that_is_asked_for(ranks, job, sharding):
    numbers = NumberSettings(on_bad_data=OnBadData.SKIP)
    group = ranks.start(job("bad", sharding, numbers, bad_sample=7, steps=12), 2)
    finish(group)
    steps = steps_of(group)
    assert list(steps) == list(range(1, 13))
    # 8 of 40 samples a step: each sample once in five steps, whatever their order.
    skipped = [step for step, done in steps.items() if done.skipped]
    assert [(step - 1) // 5 for step in skipped][:2] == [0, 1]
    found = group[0].all(WrongNumbers)
    assert [message.step + 1 for message in found] == skipped
    assert {message.blame for message in found} == {"Data"}
    kept = [done.metrics["loss"] for done in steps.values() if not done.skipped]
    assert len(kept) == 12 - len(skipped) and kept[-1] < kept[0]


def test_what_was_wrong_in_a_round_is_not_committed(ranks, job, tmp_path):
    """The rank that had it in a local step goes back to the committed weights like all others."""
    rounds = RoundSettings(local_steps=2, outer_learning_rate=0.7, outer_momentum=0.9)
    update = {"communication": CommunicationSettings(rounds=rounds)}
    expected = undisturbed(ranks, job("whole").model_copy(update=update), 2)
    settings = job("broken", wrong=(1, 5, "nan", False)).model_copy(update=update)
    group = ranks.start(settings, 2)
    finish(group)
    [told] = group[0].all(WrongNumbers)
    assert (told.step, told.ranks) == (5, (1,))
    assert losses(group) == expected
    assert_same_weights(tmp_path, "broken")
