"""Ten thousand schedules of faults; the short form lets `test_schedules` look for hard ones."""

from random import Random

import pytest

from reknit.protocol.outcome import ExitClass

FAULTS = (
    "kill rank",
    "kill rank",
    "freeze rank",
    "kill agent",
    "drop connection",
    "cut off",
    "crash coordinator",
    "second coordinator",
)
ORDER = "terminate agent"
"""Ends processes that are well, by the operator's wish."""
NUM_SCHEDULES = 10_000
BLOCK = 500


@pytest.mark.long
@pytest.mark.parametrize("first", range(0, NUM_SCHEDULES, BLOCK))
def test_no_schedule_hangs_a_job_or_loses_a_step_that_somebody_holds(world, fault, first) -> None:
    """Up to ten faults each, several at once and during recoveries, starts and ends among them."""
    for seed in range(first, first + BLOCK):
        random = Random(seed)
        moments = [random.uniform(0.1, 8.0) for _ in range(random.randint(1, 5))]
        kinds = random.choice([FAULTS, (*FAULTS, ORDER)])
        faults = tuple(
            fault(random.choice(moments), random.choice(kinds), random.randrange(10))
            for _ in range(random.randint(1, 10))
        )
        num_spares = random.choice([0, 0, 1])
        num_workers, per_worker = random.choice([(3, 1), (2, 2), (1, 3), (4, 1)])
        job = world(
            seed,
            faults=faults,
            max_delay=random.uniform(0.001, 0.3),
            num_workers=num_workers,
            processes_per_worker=per_worker,
            num_spares=num_spares,
        )
        assert job.run().exit_class is ExitClass.SUCCEEDED, seed
        if all(one.kind != ORDER for one in faults):
            # Who was cut off until a spare had its place ends when it is heard again.
            assert not job.num_sacrificed or num_spares, f"{seed}: whoever was well lived on"
            assert all(version == newest for version, newest in job.resumptions), seed
