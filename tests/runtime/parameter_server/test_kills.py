"""SIGKILL of workers, primaries and backups while a model is trained."""

from collections import Counter

import pytest
from ps_job import random_kills
from ps_task import NUM_RANGES, NUM_WORKERS, plain

NUM_STEPS = 60


@pytest.fixture(scope="session")
def expected() -> str:
    """The weights of the same training in one process without servers."""
    return plain(NUM_STEPS)


def test_without_faults_servers_come_to_the_bits_of_one_process(job, expected) -> None:
    undisturbed = job("synchronous", NUM_STEPS)
    undisturbed.run()
    assert set(undisturbed.digests.values()) == {expected}
    undisturbed.stop()


@pytest.mark.parametrize("seed", range(3))
def test_synchronous_training_ends_with_the_same_bits_whoever_is_killed(
    job, expected, seed
) -> None:
    disturbed = job("synchronous", NUM_STEPS)
    kills = random_kills(seed, NUM_STEPS, ["worker", "worker", "primary", "backup"])
    disturbed.run([(c, lambda k=kind, t=target: disturbed.kill(k, t)) for c, kind, target in kills])
    assert set(disturbed.digests.values()) == {expected}
    assert disturbed.num_again == 0
    disturbed.stop()


@pytest.mark.parametrize("mode", ["asynchronous", "bounded"])
def test_every_acknowledged_push_counts_exactly_once(job, mode) -> None:
    disturbed = job(mode, NUM_STEPS)
    kills = random_kills(5, NUM_STEPS, ["worker", "primary", "backup", "worker"])
    disturbed.run([(c, lambda k=kind, t=target: disturbed.kill(k, t)) for c, kind, target in kills])
    disturbed.stop()
    assert set(disturbed.acknowledged) == set(range(NUM_WORKERS))
    for number in range(NUM_RANGES):
        status = disturbed.servers[disturbed.views[number].primary].statuses[number]
        assert status.version == NUM_WORKERS * NUM_STEPS
        for server in disturbed.servers:
            counts = Counter(disturbed.ledger(server, number))
            assert set(counts.values()) <= {1}, "applied twice"
            for worker in range(NUM_WORKERS):
                clocks = sorted(clock for w, clock in counts if w == worker)
                # A copy from a snapshot has applied only what came behind it.
                assert clocks == list(range(NUM_STEPS - len(clocks), NUM_STEPS)), "a gap"


def test_workers_that_leave_and_join_share_the_steps_anew(job) -> None:
    """All remaining workers end with the same weights."""
    changing = job("synchronous", NUM_STEPS)
    changing.run([(10, lambda: changing.leave(1)), (25, lambda: changing.add(3, 0))])
    assert set(changing.digests) >= {0, 2, 3}
    assert len({changing.digests[place] for place in (0, 2, 3)}) == 1
    assert changing.num_again >= 2
    changing.stop()
