"""Faults of processes and pods: training goes on, and the weights are those of an undisturbed job.

The seconds that each fault costs are printed; the limits are those of README.
"""

import time

import pytest

from trackedjob import STEPS

SPARE = {"spares": {"replicas": 1}}


@pytest.fixture
def finishes_like(undisturbed):
    """Waits for the end of a job and compares its weights."""

    def check(job, what, seconds):
        print(f"{what}: {seconds:.2f} s until the next step")
        assert job.until_finished() == "Succeeded"
        found = job.weights()
        assert found == undisturbed
        assert len(found) == STEPS

    return check


def test_a_rank_is_killed(tracked, finishes_like):
    with tracked().running() as job:
        job.until_step(20)
        seconds = job.held_up(job.kill_rank(1))
        finishes_like(job, "rank killed", seconds)
    assert seconds < 1


def test_a_worker_is_deleted_and_a_spare_stands_by(tracked, finishes_like):
    with tracked(**SPARE).running() as job:
        job.until_step(20)
        job.until_spare_is_warm()
        name = job.pod_of("worker", 1)
        seconds = job.held_up(job.delete_pod(name))
        finishes_like(job, "worker deleted, with a spare", seconds)
    assert seconds < 2


def test_a_worker_is_deleted_and_none_stands_by(tracked, finishes_like):
    with tracked().running() as job:
        job.until_step(20)
        seconds = job.held_up(job.delete_pod(job.pod_of("worker", 1)))
        finishes_like(job, "worker deleted, without a spare", seconds)
        assert job.status()["failures"] == {"Preempted": 1}
    assert seconds < 8


def test_a_worker_is_lost_without_a_word(tracked, finishes_like):
    with tracked().running() as job:
        job.until_step(20)
        name = job.pod_of("worker", 1)
        seconds = job.held_up(job.delete_pod(name, "--grace-period=0", "--force"))
        finishes_like(job, "worker deleted by force, without a spare", seconds)
    assert seconds < 8


def test_the_coordinator_is_deleted(tracked, finishes_like):
    with tracked().running() as job:
        job.until_step(20)
        seconds = job.held_up(job.delete_pod(job.pod_of("coordinator")))
        job.until_incarnation(2)
        finishes_like(job, "coordinator deleted", seconds)
        # It has taken over the generation that it found.
        assert job.status()["recovery"]["count"] == 0
    assert seconds < 1


def test_the_operator_is_killed(tracked, operator, finishes_like):
    with tracked().running() as job:
        job.until_step(20)
        moment = time.time()
        operator("delete", "pods", "--all", "--grace-period=0", "--force", "--wait=false")
        seconds = job.held_up(moment)
        operator("rollout", "status", "deployment/reknit", "--timeout=60s")
        finishes_like(job, "operator killed", seconds)
        assert job.status()["attempts"] == 1
    assert seconds < 1


def test_a_worker_is_evicted(tracked, finishes_like):
    with tracked(**SPARE).running() as job:
        job.until_step(20)
        job.until_spare_is_warm()
        name = job.pod_of("worker", 0)
        seconds = job.held_up(job.evict(name))
        finishes_like(job, "worker evicted, with a spare", seconds)
        assert job.status()["failures"] == {"Preempted": 1}
    assert seconds < 2


def test_a_container_without_memory_is_replaced(tracked, undisturbed):
    limits = {"limits": {"memory": "2Gi", "cpu": "2"}}
    config = {"hoard_rank": 1, "hoard_step": 30}
    rules = [{"onReason": "OutOfMemory", "action": "FailJob"}]
    job = tracked(config=config, workers={"resources": limits}, recovery={"rules": rules})
    with job.running():
        assert job.until_finished() == "Failed"
        status = job.status()
        found = job.weights()
    assert status["failures"]["OutOfMemory"] == 1
    assert max(found) == 30
    assert all(hashes == undisturbed[step] for step, hashes in found.items())
