"""Ranks that come, go and change places between generations, and what moves with them."""

import json
from pathlib import Path

import pytest
from deaths import STEPS, finish, losses, losses_of_whole
from ranks import Ranks

from reknit.data.ledger import committed
from reknit.layout import Degrees, Sharding
from reknit.protocol.ranks import MEMORY, Leave, Left, Resumed
from reknit.protocol.settings import ENV_LEDGER


def ledger(tmp_path: Path) -> dict[str, str]:
    return {ENV_LEDGER: str(tmp_path / "ledger")}


def samples_by_version(tmp_path: Path) -> list[list[int]]:
    history = committed(tmp_path / "ledger")
    assert list(history) == list(range(1, STEPS + 1))
    return [sorted(samples) for samples in history.values()]


def test_stages_change_places_in_a_smaller_world(ranks: Ranks, job, tmp_path) -> None:
    """Of two pipelines one is left, whose ranks come back in the other order."""
    degrees = Degrees(pipeline=2)
    expected = losses_of_whole(ranks, job("whole", degrees=degrees, norm="layer"))
    settings = job("broken", (3, 2, "BACKWARD"), degrees=degrees, norm="layer")
    group = ranks.start(settings, 4, environment=ledger(tmp_path))
    everyone = list(group)
    group[3].until_death()
    survivors = [group[2], group[0]]
    ranks.abort(group[:3], 1)
    group[1].kill()
    ranks.assign(survivors, 2)
    finish(survivors)
    assert survivors[0].all(Resumed)[-1].source == MEMORY
    assert losses(everyone) == pytest.approx(expected, rel=1e-6)
    samples = samples_by_version(tmp_path)
    assert [len(step) for step in samples] == [8] * STEPS
    assert sorted(sample for step in samples[:5] for sample in step) == list(range(40))


@pytest.mark.parametrize("sharding", [Sharding.NONE, Sharding.ZERO2, Sharding.ZERO3])
def test_a_smaller_world_goes_on_and_grows_again(ranks: Ranks, job, tmp_path, sharding) -> None:
    expected = losses_of_whole(ranks, job("whole", sharding=sharding, norm="layer"))
    death = (3, 2, "BACKWARD")
    settings = job("broken", death, sharding=sharding, norm="layer", hold_step=6)
    group = ranks.start(settings, 4, environment=ledger(tmp_path))
    everyone = list(group)
    group[3].until_death()
    ranks.abort(group[:3], 1)
    ranks.assign(group[:3], 2)
    newcomer = ranks.park(settings, ledger(tmp_path))
    for rank in group[:3]:
        rank.until_step(6)
    for rank in group[:3]:
        rank.send(Leave(reason="one more can join", stay=True))
    (tmp_path / "go on").touch()
    boundaries = {rank.until(Left).step for rank in group[:3]}
    assert boundaries == {7}
    group[3] = newcomer
    everyone.append(newcomer)
    ranks.assign(group, 3)
    finish(group)
    assert [message.source for message in group[0].all(Resumed)] == ["beginning", MEMORY, MEMORY]
    assert losses(everyone) == pytest.approx(expected, rel=1e-6)
    samples = samples_by_version(tmp_path)
    # 8 samples a step, 40 in an epoch: each of them once.
    for start in range(0, STEPS - STEPS % 5, 5):
        epoch = sorted(sample for step in samples[start : start + 5] for sample in step)
        assert epoch == list(range(40))


def test_parts_of_layers_move_where_the_world_shrinks_and_grows(ranks: Ranks, job, tmp_path):
    """The two ranks that go on take each other's places, and so each other's parts."""
    changes = {"degrees": Degrees(tensor=2), "norm": "cut"}
    expected = losses_of_whole(ranks, job("whole", **changes))
    settings = job("broken", (3, 2, "BACKWARD"), hold_step=6, **changes)
    group = ranks.start(settings, 4)
    everyone = list(group)
    group[3].until_death()
    ranks.abort(group[:3], 1)
    group[0].kill()
    small = [group[1], group[2]]
    ranks.assign(small, 2)
    newcomers = [ranks.park(settings) for _ in range(2)]
    for rank in small:
        rank.until_step(6)
    for rank in small:
        rank.send(Leave(reason="two more can join", stay=True))
    (tmp_path / "go on").touch()
    assert {rank.until(Left).step for rank in small} == {7}
    large = [newcomers[0], *small, newcomers[1]]
    ranks.assign(large, 3)
    finish(large)
    told = [*everyone, *newcomers]
    resumed = [message.source for rank in told for message in rank.all(Resumed)]
    assert resumed == ["beginning", MEMORY, MEMORY]
    assert losses(told) == pytest.approx(expected, rel=1e-6)


def test_a_hand_over_at_a_boundary_redoes_nothing(ranks: Ranks, job, tmp_path) -> None:
    expected = losses_of_whole(ranks, job("whole", sharding=Sharding.ZERO2))
    settings = job("moved", sharding=Sharding.ZERO2, hold_step=4)
    group = ranks.start(settings, 4, environment=ledger(tmp_path))
    everyone = list(group)
    newcomer = ranks.park(settings, ledger(tmp_path))
    for rank in group:
        rank.until_step(4)
    for rank in group:
        rank.send(Leave(reason="worker-1 must leave", stay=True))
    (tmp_path / "go on").touch()
    assert {rank.until(Left).step for rank in group} == {5}
    group[1].kill()
    group[1] = newcomer
    everyone.append(newcomer)
    ranks.assign(group, 2)
    finish(group)
    assert losses(everyone) == expected
    lines = [
        json.loads(line)["version"]
        for file in (tmp_path / "ledger").iterdir()
        for line in file.read_text().splitlines()
    ]
    assert sorted(lines) == sorted(list(range(1, STEPS + 1)) * 4)
