"""Whatever happens to pods, watches and operator, in whatever order: the job comes right."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reknit.protocol.outcome import ExitClass
from reknit_operator.constants import Kind, Reason
from reknit_operator.reconcile.observe import ref_of

LOSSES = [ExitClass.KILLED, ExitClass.OUT_OF_MEMORY, ExitClass.INFRASTRUCTURE, ExitClass.PREEMPTED]

steps = st.one_of(
    st.tuples(st.just("pass"), st.none()),
    st.tuples(st.just("crash"), st.tuples(st.integers(0, 8), st.booleans())),
    st.tuples(st.just("deliver"), st.tuples(st.integers(1, 6), st.sampled_from(Kind))),
    st.tuples(st.just("kubelet"), st.none()),
    st.tuples(st.just("other operator"), st.none()),
    st.tuples(st.just("lose"), st.tuples(st.integers(0, 9), st.sampled_from(LOSSES))),
    st.tuples(st.just("delete"), st.integers(0, 9)),
    st.tuples(st.just("vanish"), st.integers(0, 9)),
    st.tuples(st.just("promote"), st.integers(0, 9)),
    st.tuples(st.just("suspend"), st.booleans()),
    st.tuples(st.just("tick"), st.sampled_from([1, 3, 30, 700])),
)


def play(world, script):
    """Carries out a script; pods are chosen by number among those that run."""
    for step, detail in script:
        running = world.pods()
        match step:
            case "pass":
                world.reconcile()
            case "crash":
                world.reconcile(break_at=detail[0], reaches=detail[1])
            case "deliver":
                world.deliver(*detail)
            case "other operator":
                world.switch_operator()
            case "kubelet":
                world.kubelet()
            case "lose" if running:
                world.tick(6)  # an incident of its own
                world.end(running[detail[0] % len(running)], detail[1])
            case "delete" if running:
                world.do(world.store.delete(ref_of(running[detail % len(running)])))
            case "vanish" if running:
                world.drop(running[detail % len(running)])
            case "promote":
                world.promote(detail)
            case "suspend":
                world.suspend(detail)
            case "tick":
                world.tick(detail)


@settings(
    max_examples=80, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
@given(script=st.lists(steps, max_size=40), num_spares=st.integers(0, 2))
def test_every_story_ends_well(make_world, script, num_spares):
    world = make_world(recovery={"budget": {"failures": 1000}}, spares={"replicas": num_spares})
    play(world, script)
    world.suspend(False)
    world.settle()
    status = world.job().status
    assert len(world.staff()) == 2 + num_spares
    assert len(world.pods("coordinator")) == 1
    assert world.condition("PodsReady") == "True"
    shown = {item.role: item.ready for item in status.replica_statuses}
    assert shown["worker"] == 2
    assert shown.get("spare", 0) == num_spares
    assert status.completion_time is None
    world.finishing = True
    world.settle()
    assert world.condition("Succeeded") == "True"
    assert world.pods() == []


@settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
@given(script=st.lists(steps, max_size=40))
def test_a_budget_is_never_reset(make_world, script):
    """The job fails exactly when its budget is used up, and stays failed."""
    world = make_world(recovery={"budget": {"failures": 2, "per": "7d"}})
    play(world, script)
    world.suspend(False)
    world.settle()
    status = world.job().status
    if len(status.failure_times) > 2:
        assert world.condition("Failed") == "True"
        assert world.pods() == []
        failed = next(item for item in status.conditions if item.type == "Failed")
        assert failed.reason == Reason.BUDGET_EXHAUSTED
    else:
        assert world.condition("Failed") is None
        assert len(world.pods("worker")) == 2


def test_an_operator_that_has_missed_a_write_of_another_one_does_nothing(make_world):
    """It sees the lost pod, but not that the loss has been counted already."""
    world = make_world()
    world.settle()
    world.switch_operator()
    world.tick(100)
    world.end(world.worker(1), ExitClass.KILLED)
    world.deliver()
    world.reconcile()
    world.tick(100)
    world.kubelet()
    world.end(world.pods("coordinator")[0], ExitClass.KILLED)
    world.switch_operator()
    world.deliver(kind=Kind.POD)
    length = len(world.store.log)
    world.reconcile()
    assert len(world.store.log) == length
    world.settle()
    status = world.job().status
    assert status.failures == {ExitClass.KILLED: 2}
    assert status.replacements == {"worker-1": 1, "coordinator-0": 1}


@pytest.mark.parametrize("break_at", range(6))
@pytest.mark.parametrize("reaches", [False, True])
def test_a_promotion_outlives_the_operator(make_world, break_at, reaches):
    """It dies at one of the writes that a promotion asks for; the next one makes up for it."""
    world = make_world(spares={"replicas": 1})
    world.settle()
    world.tick(100)
    world.end(world.worker(1), ExitClass.KILLED)
    world.promote(1)
    world.deliver()
    world.reconcile(break_at=break_at, reaches=reaches)
    world.settle()
    status = world.job().status
    assert status.promotions == {"worker-1": "gpt-spare-0"}
    assert status.failures == {ExitClass.KILLED: 1}
    names = sorted(pod["metadata"]["name"] for pod in world.staff())
    assert names == ["gpt-spare-0", "gpt-spare-0-1", "gpt-worker-0"]
    world.tick(100)
    [promoted] = [pod for pod in world.staff() if pod["metadata"]["name"] == "gpt-spare-0"]
    world.end(promoted, ExitClass.KILLED)
    world.settle()
    names = sorted(pod["metadata"]["name"] for pod in world.staff())
    assert names == ["gpt-spare-0-1", "gpt-worker-0", "gpt-worker-1-3"]
    assert world.job().status.promotions == {}


def test_a_quick_resumption_waits_for_the_pods_of_before(make_world):
    world = make_world()
    world.settle()
    world.suspend(True)
    world.deliver()
    world.reconcile()
    world.suspend(False)
    world.deliver()
    world.reconcile()
    assert world.job().status.attempts == 2
    assert len(world.store.pod_names) == 3
    world.settle()
    assert len(world.pods("worker")) == 2
    assert world.job().status.failures == {}


def test_a_program_error_stays_although_its_pods_vanish(make_world):
    world = make_world()
    world.settle()
    world.end(world.worker(0), ExitClass.PROGRAM_ERROR, word=True)
    world.deliver()
    world.reconcile()
    for pod in world.pods(running=False):
        world.drop(pod)
    world.start_operator()
    world.settle()
    assert world.condition("Failed") == "True"
    assert world.job().status.message == "said so"
    assert len(world.store.pod_names) == 3


def test_a_job_is_gone_some_time_after_its_end(make_world):
    world = make_world(ttlSecondsAfterFinished=60)
    world.finishing = True
    world.settle()
    assert world.condition("Succeeded") == "True"
    world.now = world.wakes_at
    world.reconcile()
    world.kubelet()
    assert world.job() is None
    assert world.pods(running=False) == []
    assert world.store.peek_all(Kind.SECRET) == ()


def test_a_pod_on_a_dead_node_blocks_neither_replacement_nor_end(make_world):
    """Nobody finalizes the pod; the operator does not wait for it, and forces it out."""
    world = make_world()
    world.settle()
    stuck = world.worker(0)
    world.do(world.store.delete(ref_of(stuck)))
    for _ in range(3):
        world.deliver()
        world.reconcile()
        world.tick(2)
    assert len(world.pods("worker")) == 3
    world.now = world.wakes_at
    world.reconcile()
    world.deliver()
    names = [pod["metadata"]["name"] for pod in world.pods("worker")]
    assert names == ["gpt-worker-1", "gpt-worker-0-1"]


@pytest.mark.parametrize("loss", ["drop", "end"])
def test_the_coordinator_hears_of_the_pods_that_are_gone_and_of_no_others(make_world, loss):
    world = make_world(recovery={"onLoss": "Shrink"}, workers={"replicas": 2, "minReplicas": 1})
    world.settle()
    world.missing = {"gpt-worker-0", "gpt-worker-1"}
    lost = world.worker(1)
    if loss == "drop":
        world.drop(lost)
    else:
        world.end(lost, ExitClass.KILLED)
    # The operator does not know of the loss yet; then it does.
    world.reconcile()
    assert world.missing == {"gpt-worker-0", "gpt-worker-1"}
    world.deliver()
    world.reconcile()
    # What was dropped is made again under the same name, and such a pod may not be called gone.
    still = {"gpt-worker-0", "gpt-worker-1"} if loss == "drop" else {"gpt-worker-0"}
    assert world.missing == still
