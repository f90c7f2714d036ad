"""What the recovery benchmark counts: a figure that can be fooled is worth nothing."""

import random
from collections import Counter

import pytest

from reknit.rank.board import Moment, Shown

STEPS = 6


def hashes(**changes):
    """One hash per version and rank, or what `changes` says of v2r1 and the like."""
    found = {(v, r): frozenset({f"{v}-{r}"}) for v in range(1, STEPS + 1) for r in range(4)}
    for place, hash_ in changes.items():
        key = (int(place[1]), int(place[3]))
        if hash_ is None:
            del found[key]
        else:
            found[key] = frozenset(hash_)
    return found


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({}, []),
        ({"v3r2": {"other"}}, [3]),
        ({"v3r2": {"3-2", "other"}}, [3]),
        ({"v3r2": None}, []),
        ({"v3r2": None, "v3r1": None}, [3]),
        ({"v3r2": None, "v3r1": {"other"}, "v6r0": {"1-0"}}, [3, 6]),
    ],
    ids=["same", "another", "one of two", "died before noting", "two missing", "several"],
)
def test_every_version_must_be_proven(changes, wrong):
    from evidence import differing

    assert differing(hashes(**changes), hashes(), STEPS) == wrong


def test_a_version_that_the_undisturbed_run_lacks_is_not_proven():
    from evidence import differing

    assert differing(hashes(), hashes(v4r0=None), STEPS) == [4]


def hit(at, step, **reached):
    from killer import Hit

    versions = {int(name[1:]): at + seconds for name, seconds in reached.items()}
    return Hit(at, 1, 42, Moment.GATE, Moment.GATE, step, versions)


def history(*pairs, figures=None):
    """Of each pair: when the state was taken up after a kill, and from which version."""
    for at, step in pairs:
        yield {"kind": "event", "reason": "Resumed", "time": at, "step": step}
        finished = {"kind": "event", "reason": "RecoveryFinished", "time": at + 0.1}
        yield {**finished, "figures": figures or {"redo": 0.2, "total": 0.5, "lost_steps": 0}}


def test_a_redone_step_is_the_next_one():
    from evidence import recoveries

    [found] = recoveries([hit(100.0, 7, v8=0.6, v9=0.9)], list(history((100.3, 7))), [])
    assert found.seconds == pytest.approx(0.6)
    assert found.lost_steps == 0
    assert found.phases == {"redo": 0.2, "total": 0.5}
    assert found.identical


def test_a_step_that_survivors_complete_by_themselves_is_not_the_next_one():
    from evidence import recoveries

    [found] = recoveries([hit(100.0, 7, v8=0.6, v9=0.9)], list(history((100.3, 8))), [])
    assert found.seconds == pytest.approx(0.9)
    assert found.held_seconds == pytest.approx(0.6)
    assert found.lost_steps == 0


def test_going_back_is_losing_steps():
    from evidence import recoveries

    [found] = recoveries([hit(100.0, 7, v8=6.0, v9=6.3)], list(history((103.0, 4))), [])
    assert found.seconds == pytest.approx(6.0)
    assert found.lost_steps == 3


def test_of_a_recovery_that_was_disturbed_the_last_start_counts():
    from evidence import recoveries

    records = list(history((100.2, 7), (100.6, 5)))
    [found] = recoveries([hit(100.0, 7, v8=1.0, v9=1.3)], records, [])
    assert found.lost_steps == 2


@pytest.mark.parametrize(("wrong", "identical"), [([], [1, 1]), ([2], [0, 1]), ([8], [0, 1])])
def test_a_difference_counts_with_the_kill_before_it(wrong, identical):
    from evidence import recoveries

    hits = [hit(100.0, 7, v8=0.5, v9=0.7), hit(110.0, 20, v21=0.5, v22=0.7)]
    found = recoveries(hits, list(history((100.2, 7), (110.2, 20))), wrong)
    assert [each.identical for each in found] == [bool(each) for each in identical]
    assert [
        each.identical for each in recoveries(hits, list(history((100.2, 7), (110.2, 20))), [30])
    ] == [True, False]


@pytest.mark.parametrize("records", [[], [(99.0, 7)], [(120.0, 6)]])
def test_a_kill_without_a_recovery_is_no_success(records):
    from evidence import recoveries

    with pytest.raises(ValueError, match="did not come over"):
        recoveries([hit(100.0, 7, v9=0.7)], list(history(*records)), [])


def test_the_peers_phases_add_up_to_its_time():
    from evidence import peer_recoveries

    starts = [
        {"rank": rank, "started": 101.0, "imported": 103.0 + rank, "loaded": 107.0, "step": 10}
        for rank in range(4)
    ]
    before = [{**each, "started": 50.0, "step": 0} for each in starts]
    [found] = peer_recoveries([hit(100.0, 14, v15=9.0, v16=9.3)], [*before, *starts])
    assert found.phases == {"detect and restart": 1.0, "import": 5.0, "load": 1.0, "redo": 2.0}
    assert found.seconds == pytest.approx(9.0)
    assert found.lost_steps == 4
    with pytest.raises(ValueError, match="did not come over"):
        peer_recoveries([hit(100.0, 14, v15=9.0)], starts[1:])


def test_moments_are_hit_in_turn_whatever_the_outcome():
    from quota import neglected, next_moment

    wanted, hit_, rng = list(Moment)[2:8], Counter(), random.Random(0)
    for _ in range(100):
        moment = next_moment(wanted, hit_)
        # Every third kill comes late.
        hit_[moment if rng.random() < 2 / 3 else wanted[0]] += 1
    assert not neglected(wanted, hit_)
    assert min(hit_[moment] for moment in wanted) >= 10


def test_a_moment_with_too_few_kills_is_named():
    from quota import neglected

    few = Counter({Moment.FORWARD: 91, Moment.GATE: 9})
    assert neglected([Moment.FORWARD, Moment.GATE], few) == [Moment.GATE]


def test_a_version_is_held_when_all_ranks_train_with_it():
    from killer import least_version

    def shown(rank, step, moment=Moment.FORWARD):
        return Shown(100 + rank, rank, step, moment, 0.0)

    ranks = {rank: shown(rank, 5 + rank) for rank in range(4)}
    assert least_version(ranks) == 5
    assert least_version({**ranks, 3: shown(3, 4)}) == 4
    assert least_version({**ranks, 3: shown(3, 9, Moment.TRANSFER)}) == -1
    del ranks[2]
    assert least_version(ranks) == -1


@pytest.mark.parametrize(
    ("share", "value"), [(0.5, 50.0), (0.95, 95.0), (1.0, 100.0), (0.0, 1.0), (0.951, 96.0)]
)
def test_quantiles_are_measured_values(share, value):
    from figures import quantile

    values = [float(number) for number in range(100, 0, -1)]
    assert quantile(values, share) == value
    assert quantile([3.0], share) == 3.0


def test_the_row_and_the_ratio():
    from evidence import Recovered
    from figures import ratios, row

    ours = [
        Recovered(hit(0.0, 1), seconds, 0.3, 0, {"redo": 0.2}, True) for seconds in (0.4, 0.5, 0.9)
    ]
    peer = [Recovered(hit(0.0, 1), 10.0, 10.0, 4, {"import": 6.0}, True)]
    found = row("zero2", ours)
    assert (found["kills"], found["p50_seconds"], found["p95_seconds"]) == (3, 0.5, 0.9)
    assert (found["held_p50_seconds"], found["held_p95_seconds"]) == (0.3, 0.3)
    assert (found["lost_steps"], found["identical"]) == (0, 3)
    assert found["moments"] == {"gate": 3}
    other = row("ddp", ours[:1])
    assert ratios([other, found], peer) == {
        "torchrun_p50_seconds": 10.0,
        "torchrun_p50_without_import": 4.0,
        "ratio": 20.0,
        "ratio_without_import": 8.0,
    }
    assert ratios([found], []) == {}
