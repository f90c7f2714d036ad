"""Ranks that die or stop, and what the others make of it."""

import os
import signal
from typing import Any

import pytest
from deaths import STEPS, check_deaths, finish, losses, losses_of_whole, run
from ranks import Ranks

from reknit.layout import Degrees, Sharding
from reknit.protocol.ranks import MEMORY, CopyDiffered, Finished, PeerLost, Resumed
from reknit.protocol.settings import (
    BatchSettings,
    CommunicationSettings,
    Compression,
    RoundSettings,
    WorkerState,
)

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
    deaths = [((step + 1) % 4, step, moment) for step, moment in MOMENTS]
    check_deaths(ranks, job, tmp_path, deaths, evaluate_every=3, **changes)


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


@pytest.mark.long
@pytest.mark.parametrize("moment", ["FORWARD", "BACKWARD", "REDUCE", "PREPARE", "GATE", "APPLY"])
@pytest.mark.parametrize(
    "degrees", [Degrees(pipeline=4), Degrees(data=2, pipeline=2)], ids=["stages", "replicas"]
)
def test_every_stage_may_be_killed_at_every_moment(
    ranks: Ranks, job, tmp_path, degrees, moment
) -> None:
    deaths = [(rank, 1 + 2 * rank, moment) for rank in range(4)]
    check_deaths(ranks, job, tmp_path, deaths, degrees=degrees)


DILOCO = {"local_steps": 2, "outer_learning_rate": 0.7, "outer_momentum": 0.9}
QUIET = {
    "BF16": (CommunicationSettings(compression=Compression.BF16), MOMENTS[1:6:2], None),
    "DiLoCo": (
        CommunicationSettings(compression=Compression.BF16, rounds=RoundSettings(**DILOCO)),
        [(step, moment) for step, moment in MOMENTS if moment != "EVALUATE"],
        None,
    ),
    "federated averaging": (
        CommunicationSettings(
            rounds=RoundSettings(local_steps=2, worker_state=WorkerState.FRESH, clients_per_round=4)
        ),
        MOMENTS[1:6:2],
        7,
    ),
}
"""What is asked for, when a rank dies, and owners of the samples."""


@pytest.mark.parametrize(("communication", "moments", "num_clients"), QUIET.values(), ids=QUIET)
def test_a_killed_rank_costs_no_bit_of_what_communicates_less(
    ranks: Ranks, job, tmp_path, communication, moments, num_clients
) -> None:
    """A round is taken anew; what a rank's optimizer remembers comes from a copy."""
    changes = {
        "communication": communication,
        "batch": BatchSettings(global_batch=16, micro=2),
        "num_clients": num_clients,
    }
    deaths = [((step + 1) % 4, step, moment) for step, moment in moments]
    check_deaths(ranks, job, tmp_path, deaths, **changes)


def test_what_power_sgd_has_left_out_on_a_lost_rank_is_lost_and_told(
    ranks: Ranks, job, tmp_path
) -> None:
    changes = {
        "communication": CommunicationSettings(compression=Compression.POWER_SGD, power_sgd_rank=1)
    }
    whole = losses(run(ranks, job("whole", **changes), []))
    broken = run(ranks, job("broken", (2, 4, "BACKWARD"), **changes), [2])
    begun, went_on = [message for rank in broken for message in rank.all(Resumed)]
    assert (begun.anew, went_on.anew, went_on.source) == ((), (2,), MEMORY)
    found = losses(broken)
    assert [found[step] for step in range(1, 6)] == [whole[step] for step in range(1, 6)]
    assert found[STEPS] != whole[STEPS]
    assert found[STEPS] == pytest.approx(whole[STEPS], rel=0.1)


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
