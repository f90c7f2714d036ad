"""Faults of processes and pods: training goes on, to the weights of an undisturbed job."""

import time

SPARE = {"spares": {"replicas": 1}}


def test_a_rank_is_killed(tracked, overcome):
    with tracked().running() as job:
        job.until_step(20)
        job.release()
        moment = job.kill_rank(1)
        overcome(job, "rank killed", moment, target=1)


def test_a_worker_is_deleted_and_a_spare_stands_by(tracked, overcome):
    with tracked(**SPARE).running() as job:
        job.until_step(20)
        job.until_spare_is_warm()
        name = job.pod_of("worker", 1)
        job.release()
        moment = job.delete_pod(name)
        overcome(job, "worker deleted, with a spare", moment, target=2, later=True)


def test_a_worker_is_deleted_and_none_stands_by(tracked, overcome):
    with tracked().running() as job:
        job.until_step(20)
        job.release()
        moment = job.delete_pod(job.pod_of("worker", 1))
        overcome(job, "worker deleted, without a spare", moment, target=8, later=True)
        assert job.status()["failures"] == {"Preempted": 1}


def test_a_worker_is_lost_without_a_word(tracked, overcome):
    with tracked().running() as job:
        job.until_step(20)
        name = job.pod_of("worker", 1)
        job.release()
        moment = job.delete_pod(name, "--grace-period=0", "--force")
        overcome(job, "worker deleted by force, without a spare", moment, target=8, later=True)


def test_the_coordinator_is_deleted(tracked, overcome):
    with tracked().running() as job:
        job.until_step(20)
        job.release()
        moment = job.delete_pod(job.pod_of("coordinator"))
        overcome(job, "coordinator deleted", moment, target=1)
        # The next one has taken over what it found, and nobody has lost a step.
        status = job.status()
        assert (status["membership"]["incarnation"], status["recovery"]["count"]) == (2, 0)


def test_the_operator_is_killed(tracked, operator, overcome):
    with tracked().running() as job:
        job.until_step(20)
        job.release()
        moment = time.time()
        operator("delete", "pods", "--all", "--grace-period=0", "--force", "--wait=false")
        operator("rollout", "status", "deployment/reknit", "--timeout=60s")
        overcome(job, "operator killed", moment, target=1)
        assert job.status()["attempts"] == 1


def test_a_worker_is_evicted(tracked, overcome):
    with tracked(**SPARE).running() as job:
        job.until_step(20)
        job.until_spare_is_warm()
        name = job.pod_of("worker", 0)
        job.release()
        moment = job.evict(name)
        overcome(job, "worker evicted, with a spare", moment, target=2, later=True)
        assert job.status()["failures"] == {"Preempted": 1}


def test_a_container_without_memory_is_told_from_others(tracked, undisturbed):
    limits = {"limits": {"memory": "2Gi"}}
    config = {"hold_step": None, "hoard_rank": 1, "hoard_step": 30}
    rules = [{"onReason": "OutOfMemory", "action": "FailJob"}]
    job = tracked(config=config, workers={"resources": limits}, recovery={"rules": rules})
    with job.running():
        assert job.until_finished() == "Failed"
        status = job.status()
        found = job.weights()
    assert status["failures"]["OutOfMemory"] == 1
    assert max(found) == 30
    assert all(hashes == undisturbed[step] for step, hashes in found.items())
