"""Seeded schedules of faults: what is promised of parameter servers holds in every one of them."""

from random import Random

import pytest
from virtual.truth import undisturbed

from reknit.parameter_server.table import Consistency, Mode
from reknit.parameter_server.views import Member

SYNCHRONOUS = Mode(Consistency.SYNCHRONOUS)
ASYNCHRONOUS = Mode(Consistency.ASYNCHRONOUS)
BOUNDED = Mode(Consistency.STALE_SYNCHRONOUS, max_staleness=1)
MODES = [SYNCHRONOUS, ASYNCHRONOUS, BOUNDED]
FAULTS = [
    "worker",
    "primary",
    "backup",
    "isolate primary",
    "isolate backup",
    "forget primary",
    "cut pair",
]
NUM_CLOCKS = 6


def schedule(job, seed: int, faults: list[str], most: int) -> None:
    random = Random(seed)
    for _ in range(random.randint(1, most)):
        kind, target = random.choice(faults), random.randrange(6)
        job.after(random.uniform(0, 0.8), job.strike, kind, target)


def check_bits(job) -> None:
    """All versions of all ranges are those of a run that nothing disturbed."""
    expected = undisturbed(job.num_ranges, [0, 1, 2], NUM_CLOCKS)
    found = [
        [job.truth.weights[number, clock] for number in range(job.num_ranges)]
        for clock in range(NUM_CLOCKS + 1)
    ]
    assert found == expected


@pytest.mark.parametrize("block", range(4))
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.consistency)
def test_whatever_dies_nothing_acknowledged_is_lost_or_counts_twice(world, mode, block) -> None:
    """`Truth` compares every update, answer and acknowledgement with what has happened."""
    num_faults = 0
    for seed in range(block * 60, block * 60 + 60):
        job = world(seed, mode=mode, loss=0.02 if seed % 3 == 0 else 0.0)
        schedule(job, seed, FAULTS, most=4)
        job.run()
        num_faults += job.num_faults
        assert not job.fenced
        if mode.is_synchronous:
            check_bits(job)
    assert num_faults > 60


def test_ranges_that_stand_at_different_versions_come_together(world) -> None:
    """Workers die between the pushes to one range and to the other."""
    for seed in range(120):
        job = world(seed, mode=SYNCHRONOUS, num_ranges=2, loss=0.05)
        schedule(job, seed, ["worker", "worker", "primary", "backup"], most=6)
        job.run()
        check_bits(job)


def test_a_stale_primary_that_workers_still_reach_says_nothing(world) -> None:
    num_views = 0
    for seed in range(100):
        job = world(seed, mode=ASYNCHRONOUS, num_clocks=20, max_delay=0.03)
        job.after(0.2 + seed / 500, job.strike, "forget primary", 0)
        job.run()
        num_views += job.views[0].number - 1
    assert num_views > 50, "others took over while it was alive"


def test_of_three_servers_two_may_die_one_after_the_other(world) -> None:
    """The second one when the copy that replaces the first one is complete."""
    for seed in range(60):
        job = world(seed, mode=SYNCHRONOUS, num_clocks=12)
        for at in (0.1, 0.6, 1.1, 1.6):
            job.after(at, job.strike, "primary", 0)
            job.after(at + 0.25, job.strike, "backup", 0)
        job.run()
        assert job.truth.weights[0, 12] == undisturbed(1, [0, 1, 2], 12)[-1][0]


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.consistency)
def test_workers_come_and_go_at_any_time(world, mode) -> None:
    """In synchronous mode every step is that of one set of workers, and all ranges agree on it."""
    for seed in range(60):
        random = Random(seed)
        job = world(seed, mode=mode, num_ranges=2, loss=0.02 if seed % 2 else 0.0)
        job.after(random.uniform(0, 0.5), job.seat, Member(3, 1), 3)
        job.after(random.uniform(0, 0.5), job.seat, None, random.randrange(3))
        job.after(random.uniform(0, 0.5), job.seat, Member(4, 1, random.randrange(6)), 4)
        schedule(job, seed, ["worker", "primary", "backup"], most=2)
        job.run()


def clocks(job) -> list[int]:
    """Of the workers that are seated, at the primary."""
    table = job.servers["server-0"].ranges[0].applied
    return [table.clocks[member.worker] for member in table.members]


def test_a_slow_worker_blocks_nobody_in_asynchronous_mode(world) -> None:
    for seed in range(20):
        job = world(seed, mode=ASYNCHRONOUS, slow={0: 50.0})
        found: list[int] = []

        def look(job=job, found=found) -> None:
            found.extend(clocks(job))

        job.after(0.6, look)
        job.run()
        assert found[0] < 2
        assert found[1:] == [NUM_CLOCKS, NUM_CLOCKS]


def test_a_slow_worker_holds_others_back_to_the_bound(world) -> None:
    for seed in range(20):
        job = world(seed, mode=BOUNDED, slow={0: 20.0})
        leads: list[int] = []

        def look(job=job, leads=leads) -> None:
            found = clocks(job)
            leads.append(max(found, default=0) - min(found, default=0))
            job.after(0.02, look)

        job.after(0.01, look)
        job.run()
        # Whoever is as far ahead as it may be still pushes what it computes there.
        assert max(leads) == BOUNDED.max_staleness + 1
