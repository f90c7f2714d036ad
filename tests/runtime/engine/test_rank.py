"""Rank processes with a test in the place of their agents."""

import socket
from pathlib import Path

import engine_tasks
import pytest
from safetensors.torch import load_file

from reknit.data.ledger import committed
from reknit.layout import Sharding
from reknit.protocol.outcome import ExitClass
from reknit.protocol.ranks import (
    Beat,
    Checkpointed,
    Evaluated,
    Failed,
    Finished,
    Leave,
    Phase,
    Resumed,
    StepDone,
)
from reknit.protocol.settings import (
    ENV_LEDGER,
    JobSettings,
)


def changed(settings: JobSettings, **changes: object) -> JobSettings:
    return settings.model_copy(update=changes)


def test_ranks_train_checkpoint_and_finish(start, settings, tmp_path):
    ranks = start(settings, 2)
    finished = [rank.until(Finished) for rank in ranks]
    assert [(message.step, message.left) for message in finished] == [(8, False)] * 2
    resumed = ranks[0].all(Resumed)
    assert [(message.step, message.source) for message in resumed] == [(0, "beginning")]
    for rank in ranks:
        done = rank.all(StepDone)
        assert [message.step for message in done] == list(range(1, 9))
        assert {(message.total_steps, message.samples) for message in done} == {(8, 8)}
        assert all(message.metrics["twice"] == 2 * message.metrics["loss"] for message in done)
        assert {"grad_norm", "learning_rate"} <= done[0].metrics.keys()
        phases = {"data", "forward", "backward", "communication", "update", "total"}
        assert all(phases <= message.seconds.keys() for message in done)
        assert done[-1].memory_bytes > 50_000_000
    losses = [[message.metrics["loss"] for message in rank.all(StepDone)] for rank in ranks]
    assert losses[0] == losses[1]
    evaluated = ranks[0].all(Evaluated)
    assert [tuple(message.metrics) for message in evaluated] == [("loss",), ("largest_error",)]
    checkpointed = ranks[0].all(Checkpointed)
    assert checkpointed[-1].step == 8
    assert all(message.error is None for message in checkpointed)
    assert not ranks[1].all(Checkpointed) + ranks[1].all(Evaluated)

    assert all(rank.process.is_alive() for rank in ranks), "a rank waits to be released"
    assert [rank.end() for rank in ranks] == [0, 0]
    model = engine_tasks.Net()
    model.load_state_dict(load_file(tmp_path / "checkpoints" / "model.safetensors"))
    assert model.second.weight is model.first.weight


@pytest.mark.parametrize("sharding", [Sharding.NONE, Sharding.ZERO2, Sharding.ZERO3])
def test_ranks_leave_together_and_others_go_on(start, settings, tmp_path, sharding):
    environment = {ENV_LEDGER: str(tmp_path / "ledger")}
    settings = changed(settings, sharding=sharding)
    whole = start(changed(settings, checkpoint=None), 2)
    expected = [rank.until(Finished) for rank in whole] and whole[0].all(StepDone)

    ranks = start(settings, 2, 2, environment)
    ranks[1].until(StepDone)
    ranks[1].send(Leave(reason="the pod is evicted"))
    left = [rank.until(Finished) for rank in ranks]
    assert [message.left for message in left] == [True, True]
    assert left[0].step == left[1].step < 8
    assert ranks[0].all(Checkpointed)[-1].step == left[0].step
    assert [rank.end() for rank in ranks] == [0, 0]

    later = start(settings, 2, 3, environment)
    assert later[0].until(Resumed).step == left[0].step
    assert [rank.until(Finished).left for rank in later] == [False, False]
    found = ranks[0].all(StepDone) + later[0].all(StepDone)
    assert [message.step for message in found] == list(range(1, 9))
    assert [message.metrics for message in found] == [message.metrics for message in expected]
    assert later[0].all(Evaluated) == whole[0].all(Evaluated)
    ledger = committed(tmp_path / "ledger")
    assert sorted(ledger) == list(range(1, 9))
    # Five steps are an epoch.
    assert sorted(sample for step in range(1, 6) for sample in ledger[step]) == list(range(40))


def test_a_finished_job_that_is_run_again_has_nothing_to_do(start, settings, tmp_path):
    first = start(settings, 1)
    first[0].until(Finished)
    first[0].end()
    model = tmp_path / "checkpoints" / "model.safetensors"
    model.unlink()
    again = start(settings, 2, counter=2)
    assert [rank.until(Finished).step for rank in again] == [8, 8]
    assert not again[0].all(StepDone) + again[0].all(Checkpointed)
    for found, expected in zip(again[0].all(Evaluated), first[0].all(Evaluated), strict=True):
        # Two ranks share what one rank evaluated alone.
        assert found.metrics == pytest.approx(expected.metrics, rel=1e-6)
    assert model.exists()


def test_a_damaged_checkpoint_is_told_and_an_older_one_taken(start, settings):
    checkpoint = settings.checkpoint.model_copy(update={"keep": 2})
    settings = changed(settings, checkpoint=checkpoint)
    first = start(settings, 2)
    assert [rank.until(Finished).step for rank in first] == [8, 8]
    assert [rank.end() for rank in first] == [0, 0]
    older, newer = first[0].all(Checkpointed)[-2:]
    newest = Path(newer.location)
    shard = next(newest.glob("shard-*"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    again = start(settings, 2, counter=2)
    resumed = again[0].until(Resumed)
    assert (resumed.step, resumed.source) == (older.step, older.location)
    assert resumed.damaged == (f"{newest.name}: {shard.name} is damaged: its checksum differs",)
    assert [rank.until(Finished).step for rank in again] == [8, 8]


def test_an_exception_on_one_rank_is_told_at_once(start, settings):
    ranks = start(changed(settings, config={"fail_rank": 1}), 2)
    failed = ranks[1].until(Failed).error
    assert failed.exit_class is ExitClass.PROGRAM_ERROR
    assert failed.exception == "ArithmeticError: the user's own mistake"
    assert failed.step == 3
    assert ranks[1].exit_status() == 1


def test_a_traceback_shows_the_user_s_frames_and_no_plumbing(start, settings):
    for sharding in (Sharding.NONE, Sharding.ZERO3):
        ranks = start(
            changed(settings, function="engine_tasks:fail_in_forward", sharding=sharding), 2
        )
        error = ranks[0].until(Failed).error
        assert error.exception.startswith("ArithmeticError: a mean of")
        in_files = [line for line in error.traceback.splitlines() if line.startswith("  File")]
        ours = [line for line in in_files if "/runtime/reknit/" in line or "/deepspeed/" in line]
        assert ours == [], error.traceback
        users = [line for line in in_files if "engine_tasks.py" in line]
        assert [line.rpartition(" in ")[2] for line in users] == [
            "fail_in_forward",
            "squared_error",
            "forward",
            "broken",
        ]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"config": {"stepz": 3}}, "did you mean steps?"),
        ({"function": "engine_tasks:missing"}, "has no function 'missing'"),
        ({"function": "engine_tasks:skip_a_batch"}, "give each batch to engine.train_step"),
    ],
)
def test_a_wrong_configuration_is_one_sentence(start, settings, changes, sentence):
    rank = start(changed(settings, **changes), 1)[0]
    error = rank.until(Failed).error
    assert error.exit_class is ExitClass.CONFIGURATION
    assert sentence in error.exception
    assert rank.exit_status() == 2


def test_an_exit_of_the_user_s_code_keeps_its_status(start, settings):
    rank = start(changed(settings, function="engine_tasks:leave_the_process"), 1)[0]
    assert rank.until(Failed).error.exception == "SystemExit: 7"
    assert rank.exit_status() == 7


def test_a_lost_peer_is_no_error_of_the_program(start, settings):
    ranks = start(changed(settings, function="engine_tasks:die"), 2)
    assert ranks[1].exit_status() == 9
    # The agent ends the rank when it hears of its peer; here it only closes the line.
    ranks[0].line.shutdown(socket.SHUT_WR)
    assert ranks[0].until(Failed).error.exit_class is ExitClass.INFRASTRUCTURE


def test_a_loss_that_is_not_finite_is_never_applied(start, settings, tmp_path):
    ranks = start(changed(settings, config={"poison": True}), 2)
    errors = [rank.until(Failed).error for rank in ranks]
    assert errors[0].exception == errors[1].exception
    assert errors[0].exception.startswith("FloatingPointError: step 3: the loss is inf")
    assert [message.step for message in ranks[0].all(StepDone)] == [1, 2, 3]


def test_a_checkpoint_that_cannot_be_written_stops_the_job_only_at_its_end(
    start, settings, tmp_path
):
    folder = str(tmp_path / "checkpoints")
    every_two = settings.checkpoint.model_copy(update={"every_steps": 2})
    ranks = start(
        changed(settings, checkpoint=every_two, config={"break_folder": folder, "steps": 12}), 2
    )
    error = ranks[0].until(Failed).error
    assert error.exit_class is ExitClass.INFRASTRUCTURE
    assert "the final checkpoint could not be written" in error.exception
    assert ranks[0].all(StepDone)[-1].step == 12
    assert any(message.error for message in ranks[0].all(Checkpointed))


def test_beats_go_on_while_a_rank_waits(start, settings):
    rank = start(settings, 1)[0]
    rank.until(Finished)
    del rank.heard[:]
    for _ in range(3):
        beat = rank.until(Beat)
    assert (beat.phase, beat.step) == (Phase.CLOSING, 8)


def test_a_rank_ends_with_its_agent(start, settings):
    rank = start(settings, 1)[0]
    rank.until(Finished)
    rank.line.shutdown(socket.SHUT_WR)
    assert rank.exit_status() == 1


def test_seeds_decide_and_nothing_else(start, settings):
    def losses(seed: int) -> list[float]:
        rank = start(changed(settings, seed=seed, checkpoint=None), 1, counter=seed + 5)[0]
        rank.until(Finished)
        return [message.metrics["loss"] for message in rank.all(StepDone)]

    first = losses(0)
    assert losses(0) == first
    assert losses(1) != first
