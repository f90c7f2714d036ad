"""The operator dies at every single write of a job's life; every life ends the same."""

import pytest

from reknit.protocol.outcome import ExitClass
from reknit_operator.reconcile.observe import ref_of

SPEC = {"checkpoint": {"everySteps": 5}}


def live(world, *, crash_at=None, reaches=True):
    """A life with a lost worker, a lost coordinator and a drain; returns the number of writes."""
    total = 0

    def passes(*, kubelet=True):
        nonlocal total
        for _ in range(12):
            if kubelet:
                world.kubelet()
            world.deliver()
            before = len(world.store.log)
            local = None if crash_at is None else crash_at - total
            total += world.reconcile(break_at=local, reaches=reaches)
            if world.wakes_at is not None:
                world.now = world.wakes_at
            if len(world.store.log) == before and not world.crashed:
                return

    passes()
    world.tick(100)
    world.end(world.worker(1), ExitClass.KILLED)
    passes()
    world.tick(1000)
    world.end(world.pods("coordinator")[0], ExitClass.KILLED)
    passes()
    world.tick(1000)
    world.do(world.store.delete(ref_of(world.worker(0))))
    passes(kubelet=False)  # the drained pod takes its time
    passes()
    world.tick(10)
    world.finishing = True
    passes()
    return total


def verdict(world):
    """What must not depend on crashes."""
    status = world.job().status
    return (
        world.condition("Succeeded"),
        dict(status.failures),
        dict(status.replacements),
        status.attempts,
        len(status.failure_times),
        world.pods(),
        sorted(name for name in world.store.pod_names if "worker" in name),
    )


def test_a_life_without_crashes(make_world):
    world = make_world(**SPEC)
    assert live(world) > 20
    succeeded, failures, replacements, attempts, charged, running, workers = verdict(world)
    assert succeeded == "True"
    assert failures == {ExitClass.KILLED: 2, ExitClass.PREEMPTED: 1}
    assert replacements == {"coordinator-0": 1, "worker-1": 1, "worker-0": 1}
    assert (attempts, charged, running) == (1, 2, [])
    assert workers == ["gpt-worker-0", "gpt-worker-0-1", "gpt-worker-1", "gpt-worker-1-1"]


@pytest.mark.parametrize("reaches", [True, False], ids=["answer-lost", "request-lost"])
def test_a_crash_at_every_write(make_world, reaches):
    undisturbed = make_world(**SPEC)
    num_writes = live(undisturbed)
    for crash_at in range(num_writes):
        world = make_world(**SPEC)
        live(world, crash_at=crash_at, reaches=reaches)
        world.settle()
        assert verdict(world) == verdict(undisturbed), f"crash at write {crash_at}"
