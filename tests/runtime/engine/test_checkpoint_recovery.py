"""Ranks that die while checkpoints are written, and state that only a checkpoint has."""

import pytest
from deaths import STEPS, assert_same_weights, check_deaths, finish, losses, losses_of_whole, run
from ranks import Ranks

from covering import short
from reknit.checkpoint.reader import Rejected, examine, newest, search
from reknit.checkpoint.retention import checkpoint_folders
from reknit.layout import Degrees, Sharding
from reknit.protocol.ranks import MEMORY, Resumed, StepDone
from reknit.protocol.settings import RecoverySettings


@pytest.mark.parametrize(
    "sharding", short([(sharding,) for sharding in Sharding], [(Sharding.ZERO2,)])
)
def test_a_rank_killed_while_a_checkpoint_is_written_costs_no_bit(
    ranks: Ranks, job, tmp_path, sharding
) -> None:
    """In the background within a write to its file, and where all wait for the last checkpoint."""
    deaths = [(2, 3, "WRITING"), (0, 6, "WRITING"), (1, 12, "CHECKPOINT")]
    check_deaths(ranks, job, tmp_path, deaths, sharding=sharding, every_steps=3)
    folders = checkpoint_folders(tmp_path / "broken")
    assert [path for path in folders if isinstance(examine(path), Rejected)] == []
    last = newest(tmp_path / "broken")
    assert last is not None
    assert (last.version, last.generation.counter) == (STEPS, len(deaths) + 1)


def test_new_ranks_go_on_where_all_were_killed_while_a_checkpoint_was_written(
    ranks: Ranks, job, tmp_path
) -> None:
    changes = {"sharding": Sharding.ZERO2, "every_steps": 3}
    expected = losses_of_whole(ranks, job("whole", **changes))
    settings = job("broken", (3, 6, "WRITING"), **changes)
    first = ranks.start(settings, 4)
    first[3].until_death()
    for rank in first[:3]:
        rank.kill()
        rank.rest(StepDone)
    complete, [half_written] = search(tmp_path / "broken")
    assert complete is not None
    assert complete.version == 3
    assert not half_written.was_committed
    second = ranks.start(settings, 4, counter=2)
    finish(second)
    resumed = [(message.step, message.source) for message in second[0].all(Resumed)]
    assert resumed == [(3, str(complete.path))]
    assert min(losses(second)) == 4
    assert losses(first + second) == expected
    assert_same_weights(tmp_path)
    assert not half_written.path.exists()


def test_a_lost_stage_without_copy_comes_from_the_newest_checkpoint(ranks: Ranks, job, tmp_path):
    expected = losses_of_whole(ranks, job("whole", degrees=Degrees(pipeline=4)))
    settings = job(
        "broken",
        (1, 8, "BACKWARD"),
        degrees=Degrees(pipeline=4),
        recovery=RecoverySettings(heartbeat_seconds=0.05, copies=0),
        every_steps=3,
    )
    broken = run(ranks, settings, [1])
    sources = [message.source for rank in broken for message in rank.all(Resumed)]
    assert sources[0] == "beginning"
    assert sources[1] != MEMORY
    assert losses(broken) == expected


def test_what_nobody_holds_comes_from_the_newest_checkpoint(ranks: Ranks, job, tmp_path) -> None:
    recovery = RecoverySettings(heartbeat_seconds=0.05, copies=0)
    expected = losses_of_whole(ranks, job("whole", sharding=Sharding.ZERO2))
    settings = job(
        "broken",
        (1, 8, "FORWARD"),
        sharding=Sharding.ZERO2,
        recovery=recovery,
        every_steps=3,
    )
    broken = run(ranks, settings, [1])
    sources = [(message.step, message.source) for rank in broken for message in rank.all(Resumed)]
    assert sources[0] == (0, "beginning")
    [(step, source)] = sources[1:]
    assert step in (3, 6)
    assert source.endswith(f"step-{step:08d}.g1.1")
    assert losses(broken) == expected
