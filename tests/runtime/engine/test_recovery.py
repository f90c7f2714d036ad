"""Ranks that die, stop or leave, and what the others make of it."""

import json
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import pytest
from ranks import Rank, Ranks
from safetensors.torch import load_file

from reknit.data.ledger import committed
from reknit.layout import Degrees, Sharding
from reknit.protocol.ranks import (
    MEMORY,
    CopyDiffered,
    Failed,
    Finished,
    Leave,
    Left,
    PeerLost,
    Resumed,
    StepDone,
)
from reknit.protocol.settings import (
    ENV_LEDGER,
    CheckpointSettings,
    JobSettings,
    RecoverySettings,
)

STEPS = 12


def losses(ranks: list[Rank]) -> dict[int, float]:
    """Loss of each step, as the ranks told it."""
    told = [done for rank in ranks for done in rank.all(StepDone)]
    found: dict[int, set[float]] = {}
    for done in told:
        found.setdefault(done.step, set()).add(done.metrics["loss"])
    assert all(len(values) == 1 for values in found.values()), found
    return {step: values.pop() for step, values in sorted(found.items())}


@pytest.fixture
def job(settings: JobSettings, tmp_path: Path) -> Callable[..., JobSettings]:
    """job(name, deaths, evaluate_every=None, **changes): a job of its own folder."""

    def make(
        name: str,
        *deaths: tuple[int, int, str],
        evaluate_every: int | None = None,
        norm: str = "batch",
        hold_step: int | None = None,
        **changes: Any,
    ) -> JobSettings:
        graves = tmp_path / f"{name}-graves"
        graves.mkdir()
        config = {
            "norm": norm,
            "hold_step": hold_step,
            "hold_until": str(tmp_path / "go on"),
            "steps": STEPS,
            "deaths": deaths,
            "graves": str(graves),
            "evaluate_every": evaluate_every,
        }
        update = {
            "config": config,
            "checkpoint": CheckpointSettings(path=str(tmp_path / name), every_seconds=None),
            "recovery": RecoverySettings(heartbeat_seconds=0.05, copies=1),
            **changes,
        }
        return settings.model_copy(update=update)

    return make


def finish(group: list[Rank]) -> None:
    assert [rank.until(Finished).left for rank in group] == [False] * len(group)
    assert [rank.end() for rank in group] == [0] * len(group)


def run(ranks: Ranks, settings: JobSettings, deaths: list[int]) -> list[Rank]:
    """All processes of a job in which these ranks die one after the other."""
    group = ranks.start(settings, 4)
    everyone = list(group)
    for counter, victim in enumerate(deaths, start=1):
        spare = ranks.park(settings)
        first_to_die = wait([rank.process.sentinel for rank in group])[0]
        assert first_to_die == group[victim].process.sentinel, [
            failed.error.traceback
            for rank in group
            if rank.process.sentinel == first_to_die
            for failed in rank.rest(Failed)
        ]
        group[victim].until_death()
        ranks.abort([rank for rank in group if rank is not group[victim]], counter)
        group[victim] = spare
        everyone.append(spare)
        ranks.assign(group, counter + 1)
    finish(group)
    return everyone


MOMENTS = (
    (1, "FORWARD"),
    (2, "BACKWARD"),
    (3, "REDUCE"),
    (4, "PREPARE"),
    (5, "GATE"),
    (6, "APPLY"),
    (8, "IDLE"),
    (9, "EVALUATE"),
    (12, "CLOSING"),
)
"""Steps committed before, and what the rank is doing: IDLE just after the last of them."""


@pytest.mark.parametrize("sharding", list(Sharding))
def test_a_killed_rank_costs_no_bit(ranks: Ranks, job, tmp_path, sharding) -> None:
    check_kills(ranks, job, tmp_path, sharding=sharding)


def check_kills(ranks: Ranks, job, tmp_path, **changes: object) -> None:
    whole = run(ranks, job("whole", evaluate_every=3, **changes), [])
    deaths = [((step + 1) % 4, step, moment) for step, moment in MOMENTS]
    settings = job("broken", *deaths, evaluate_every=3, **changes)
    broken = run(ranks, settings, [victim for victim, _, _ in deaths])
    resumed = [message for rank in broken for message in rank.all(Resumed)]
    assert [message.source for message in resumed][1:] == [MEMORY] * len(deaths)
    assert losses(broken) == losses(whole)
    weights = load_file(tmp_path / "broken" / "model.safetensors")
    for name, tensor in load_file(tmp_path / "whole" / "model.safetensors").items():
        assert weights[name].equal(tensor), name


@pytest.mark.parametrize(
    "changes",
    [
        {"degrees": Degrees(tensor=2)},
        {"degrees": Degrees(tensor=4)},
        {"degrees": Degrees(shard_group=2), "sharding": Sharding.FSDP},
    ],
    ids=["data 2 x tensor 2", "tensor 4", "groups of 2"],
)
def test_a_killed_rank_with_parts_of_layers_costs_no_bit(ranks: Ranks, job, tmp_path, changes):
    """Its replica has the same parts; without one, the rank that keeps a copy of them."""
    check_kills(ranks, job, tmp_path, norm="cut", **changes)


@pytest.mark.parametrize(
    "degrees", [Degrees(pipeline=4), Degrees(data=2, pipeline=2)], ids=["stages", "replicas"]
)
def test_a_killed_stage_costs_no_bit(ranks: Ranks, job, tmp_path, degrees) -> None:
    """Without replicas from the copy that another stage keeps; with them from a replica.

    In four stages, one has nothing but a dropout layer, and two share their weights.
    """
    check_kills(ranks, job, tmp_path, degrees=degrees)


def test_a_lost_stage_without_copy_comes_from_the_newest_checkpoint(ranks: Ranks, job, tmp_path):
    expected = losses_of_whole(ranks, job("whole", degrees=Degrees(pipeline=4)))
    checkpoint = CheckpointSettings(
        path=str(tmp_path / "broken"), every_seconds=None, every_steps=3
    )
    settings = job(
        "broken",
        (1, 8, "BACKWARD"),
        degrees=Degrees(pipeline=4),
        recovery=RecoverySettings(heartbeat_seconds=0.05, copies=0),
        checkpoint=checkpoint,
    )
    broken = run(ranks, settings, [1])
    sources = [message.source for rank in broken for message in rank.all(Resumed)]
    assert sources[0] == "beginning"
    assert sources[1] != MEMORY
    assert losses(broken) == expected


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


@pytest.mark.long
@pytest.mark.parametrize("moment", ["FORWARD", "BACKWARD", "REDUCE", "PREPARE", "GATE", "APPLY"])
@pytest.mark.parametrize(
    "degrees", [Degrees(pipeline=4), Degrees(data=2, pipeline=2)], ids=["stages", "replicas"]
)
def test_every_stage_may_be_killed_at_every_moment(
    ranks: Ranks, job, tmp_path, degrees, moment
) -> None:
    whole = run(ranks, job("whole", degrees=degrees), [])
    deaths = [(rank, 1 + 2 * rank, moment) for rank in range(4)]
    broken = run(ranks, job("broken", *deaths, degrees=degrees), [0, 1, 2, 3])
    resumed = [message for rank in broken for message in rank.all(Resumed)]
    assert [message.source for message in resumed][1:] == [MEMORY] * len(deaths)
    assert losses(broken) == losses(whole)
    weights = load_file(tmp_path / "broken" / "model.safetensors")
    for name, tensor in load_file(tmp_path / "whole" / "model.safetensors").items():
        assert weights[name].equal(tensor), name


def losses_of_whole(ranks: Ranks, settings: JobSettings) -> dict[int, float]:
    """What the undisturbed job comes to with four ranks."""
    return losses(run(ranks, settings, []))


def ledger(tmp_path: Path) -> dict[str, str]:
    return {ENV_LEDGER: str(tmp_path / "ledger")}


def samples_by_version(tmp_path: Path) -> list[list[int]]:
    history = committed(tmp_path / "ledger")
    assert list(history) == list(range(1, STEPS + 1))
    return [sorted(samples) for samples in history.values()]


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


def test_what_nobody_holds_comes_from_the_newest_checkpoint(ranks: Ranks, job, tmp_path) -> None:
    recovery = RecoverySettings(heartbeat_seconds=0.05, copies=0)
    expected = losses_of_whole(ranks, job("whole", sharding=Sharding.ZERO2))
    checkpoint = CheckpointSettings(
        path=str(tmp_path / "broken"), every_seconds=None, every_steps=3
    )
    settings = job(
        "broken",
        (1, 8, "FORWARD"),
        sharding=Sharding.ZERO2,
        recovery=recovery,
        checkpoint=checkpoint,
    )
    broken = run(ranks, settings, [1])
    sources = [(message.step, message.source) for rank in broken for message in rank.all(Resumed)]
    assert sources[0] == (0, "beginning")
    [(step, source)] = sources[1:]
    assert step in (3, 6)
    assert source.endswith(f"step-{step:08d}.g1.1")
    assert losses(broken) == expected


def test_a_stopped_rank_holds_nobody_up_and_does_no_harm(ranks: Ranks, job, tmp_path) -> None:
    expected = losses_of_whole(ranks, job("whole"))
    settings = job("stopped", hold_step=4)
    group = ranks.start(settings, 4)
    everyone = list(group)
    spare = ranks.park(settings)
    for rank in group:
        rank.until_step(4)
    stopped = group[2]
    os.kill(stopped.process.pid, signal.SIGSTOP)
    (tmp_path / "go on").touch()
    survivors = [rank for rank in group if rank is not stopped]
    ranks.abort(survivors, 1)
    group[2] = spare
    everyone.append(spare)
    ranks.assign(group, 2)
    assert [rank.until(Finished).left for rank in group] == [False] * 4
    os.kill(stopped.process.pid, signal.SIGCONT)
    # It finds its connections broken, and waits to be told why.
    stopped.until(PeerLost)
    stopped.kill()
    assert [rank.end() for rank in group] == [0] * 4
    assert losses(everyone) == expected
    names = [path.name for path in (tmp_path / "stopped").iterdir()]
    assert sorted(names) == ["model.safetensors", f"step-{STEPS:08d}.g1.2"]


def test_a_survivor_waits_until_it_is_told_why_its_peer_is_gone(ranks: Ranks, job) -> None:
    group = ranks.start(job("broken", (1, 3, "FORWARD")), 2)
    group[1].until_death()
    group[0].until(PeerLost)
    assert ranks.abort(group[:1], 1) == [3]
    assert group[0].process.is_alive()


def test_a_copy_that_has_lost_a_bit_is_told_and_made_anew(ranks: Ranks, job: Any) -> None:
    """The copies are compared every other step here; the bit is lost in step 5."""
    settings = job("spoiled", sharding=Sharding.ZERO2, function="engine_tasks:spoil_a_copy")
    config = {**settings.config, "fail_rank": 2, "fail_step": 5}
    group = ranks.start(settings.model_copy(update={"config": config}), 4)
    finish(group)
    told = [rank.all(CopyDiffered) for rank in group]
    assert told == [[], [], [CopyDiffered(step=6, ward=1)], []]
