"""Spare pods: created, counted apart, and workers by record once the coordinator says so."""

from datetime import timedelta

import pytest

from plans import condition, created, deleted, reasons
from reknit.protocol.base import Generation
from reknit.protocol.outcome import Conclusion, ExitClass
from reknit.protocol.ranks import Phase
from reknit.protocol.status import CoordinatorStatus, MembershipPhase, Promotion, RankStatus
from reknit_operator.constants import SPARE_PATIENCE, SPARE_PERIOD
from reknit_operator.policy.promotion import as_recorded
from reknit_operator.reconcile.decide import decide
from reknit_operator.reconcile.observed import Observed, PodPhase

LATER = timedelta(seconds=40)
"""After the waits between two creations in one place."""


@pytest.fixture
def job(make_job):
    return make_job(spares={"replicas": 1})


@pytest.fixture
def world(settled, make_spare, job):
    """The job with its spare, running undisturbed unless told otherwise."""

    def make(*pods, status=None, **fields):
        names = {pod.ref.name for pod in pods}
        spares = () if "gpt-spare-0" in names else (make_spare(0),)
        status = status or settled(*spares, job=job).job.status
        return settled(*pods, *spares, job=job, status=status, **fields)

    return make


def promoted(*, replica=1, agent="gpt-spare-0", instead_of="gpt-worker-1", **fields):
    promotion = Promotion(agent=agent, replica=replica, instead_of=instead_of)
    fields = {"phase": MembershipPhase.RUNNING, "promotions": (promotion,), **fields}
    return CoordinatorStatus(incarnation=1, **fields)


def killed(make_worker, now):
    return make_worker(1, phase=PodPhase.FAILED, exit_code=137, finished=now + LATER)


def test_spares_start_with_the_workers(job, now):
    names = created(decide(Observed(job=job), now))
    assert names[-3:] == ["gpt-worker-0", "gpt-worker-1", "gpt-spare-0"]


def test_spares_are_counted_apart(world, now):
    world = world()
    decided = decide(world, now).status or world.job.status
    shown = {found.role: (found.desired, found.ready) for found in decided.replica_statuses}
    assert shown == {"coordinator": (1, 1), "worker": (2, 2), "spare": (1, 1)}
    ready = condition(decided, "PodsReady")
    assert (ready.status, ready.reason) == ("True", "AllPodsReady")


def test_a_job_without_its_spare_is_ready_all_the_same(world, make_spare, now):
    pending = make_spare(0, phase=PodPhase.PENDING, ready=False)
    status = decide(world(pending), now).status or world(pending).job.status
    assert condition(status, "PodsReady").status == "True"


def test_the_place_of_a_lost_worker_is_left_to_a_spare(world, make_worker, now):
    lost = killed(make_worker, now)
    plan = decide(world(lost), now + LATER)
    assert created(plan) == []
    assert plan.status.failures == {ExitClass.KILLED: 1}
    assert plan.requeue_after == SPARE_PATIENCE
    late = decide(world(lost, status=plan.status), now + LATER + SPARE_PATIENCE)
    assert created(late) == ["gpt-worker-1-1"]


def test_two_lost_workers_and_one_spare(world, make_worker, now):
    ends = {"phase": PodPhase.FAILED, "exit_code": 137, "finished": now + LATER}
    both = (make_worker(0, **ends), make_worker(1, **ends))
    assert created(decide(world(*both), now + LATER)) == ["gpt-worker-1-1"]


@pytest.mark.parametrize("fields", [{"ready": False}, {"phase": PodPhase.FAILED, "exit_code": 1}])
def test_a_spare_that_does_not_stand_by_leaves_nothing_waiting(
    world, make_worker, make_spare, now, fields
):
    pods = (killed(make_worker, now), make_spare(0, **fields))
    assert created(decide(world(*pods), now + LATER))[0] == "gpt-worker-1-1"


def test_a_promotion_is_written_down_and_the_spare_replaced(world, make_worker, now):
    lost = killed(make_worker, now)
    before = decide(world(lost), now + LATER).status
    plan = decide(world(lost, status=before, coordinator=promoted()), now + LATER)
    assert plan.status.promotions == {"worker-1": "gpt-spare-0"}
    assert plan.status.replacements == {"worker-1": 2, "spare-0": 1}
    assert plan.status.failures == {ExitClass.KILLED: 1}
    assert created(plan) == ["gpt-spare-0-1"]
    assert deleted(plan) == []
    assert reasons(plan) == ["SparePromoted"]


def test_once_written_down_there_is_nothing_left_to_do(world, make_worker, make_spare, now):
    lost = killed(make_worker, now)
    first = decide(world(lost, coordinator=promoted()), now + LATER)
    pods = (lost, make_spare(0, replacement=1))
    second = decide(world(*pods, status=first.status, coordinator=promoted()), now + LATER)
    third = decide(
        world(*pods, status=second.status or first.status, coordinator=promoted()), now + LATER
    )
    assert (created(second), deleted(second), reasons(second)) == ([], [], [])
    assert third.empty


def test_a_loss_that_only_the_coordinator_has_seen_is_counted_once(world, make_worker, now):
    """As when the pod's node does not answer: its object looks as if it ran."""
    plan = decide(world(coordinator=promoted()), now + LATER)
    assert plan.status.failures == {ExitClass.INFRASTRUCTURE: 1}
    assert len(plan.status.failure_times) == 1
    assert deleted(plan) == ["gpt-worker-1"]
    gone = make_worker(1, deleted=now + LATER)
    again = decide(world(gone, status=plan.status, coordinator=promoted()), now + LATER)
    assert again.status is None or again.status.failures == plan.status.failures


def test_such_a_loss_can_use_up_the_budget(settled, make_job, make_spare, now):
    job = make_job(spares={"replicas": 1}, recovery={"budget": {"failures": 0}})
    world = settled(make_spare(0), job=job, coordinator=promoted())
    plan = decide(world, now + LATER)
    assert condition(plan.status, "Concluding").reason == "BudgetExhausted"
    assert "gpt-worker-1" in plan.status.message


def test_a_pod_that_was_created_in_vain_is_no_failure(world, make_worker, now):
    before = decide(world(killed(make_worker, now)), now + LATER).status
    spurious = make_worker(1, replacement=1, created=now + LATER)
    plan = decide(world(spurious, status=before, coordinator=promoted()), now + LATER)
    assert plan.status.failures == before.failures
    assert "gpt-worker-1-1" in deleted(plan)
    assert created(plan) == ["gpt-spare-0-1"]


def recorded(world, now):
    return decide(world(coordinator=promoted()), now + LATER).status


def test_a_promoted_spare_is_a_worker_by_record(world, make_spare, make_worker, now):
    status = recorded(world, now)
    [pod] = as_recorded([make_spare(0)], status)
    assert (pod.role, pod.replica, pod.replacement) == ("worker", 1, 1)
    assert pod.ref == make_spare(0).ref
    others = [make_spare(0, replacement=1), make_worker(1), make_spare(0, attempt=2)]
    assert as_recorded(others, status) == tuple(others)


def test_a_promoted_spare_that_fails_is_replaced_as_a_worker(world, make_spare, now):
    status = recorded(world, now)
    lost = make_spare(0, phase=PodPhase.FAILED, exit_code=137)
    pods = (lost, make_spare(0, replacement=1, ready=False))
    stale = promoted()
    plan = decide(world(*pods, status=status, coordinator=stale), now + 2 * LATER)
    assert plan.status.promotions == {}
    assert plan.status.failures == {ExitClass.INFRASTRUCTURE: 1, ExitClass.KILLED: 1}
    assert len(plan.status.failure_times) == 2
    assert created(plan) == [], "the second failure in a row waits"
    soon = now + 2 * LATER + plan.requeue_after
    assert created(decide(world(*pods, status=plan.status), soon)) == ["gpt-worker-1-2"]


def test_a_report_from_before_the_end_of_the_spare_promotes_nothing(world, make_spare, now):
    lost = make_spare(0, phase=PodPhase.FAILED, exit_code=137)
    plan = decide(world(lost, coordinator=promoted()), now + LATER)
    assert plan.status.promotions == {}
    assert plan.status.replacements == {"spare-0": 1}


def test_a_second_promotion_into_a_place_takes_it_from_the_first(world, make_spare, now):
    status = recorded(world, now)
    pods = (make_spare(0), make_spare(0, replacement=1))
    report = promoted(agent="gpt-spare-0-1", instead_of="gpt-spare-0")
    plan = decide(world(*pods, status=status, coordinator=report), now + 2 * LATER)
    assert plan.status.promotions == {"worker-1": "gpt-spare-0-1"}
    assert plan.status.failures == {ExitClass.INFRASTRUCTURE: 2}
    assert "gpt-spare-0" in deleted(plan)
    assert created(plan) == ["gpt-spare-0-2"]


def test_the_report_of_an_earlier_coordinator_promotes_nothing(world, now):
    report = promoted().model_copy(update={"incarnation": 0})
    assert decide(world(coordinator=report), now + LATER).status is None


def test_a_spare_that_dies_costs_no_budget_and_is_replaced_after_a_while(world, make_spare, now):
    lost = make_spare(0, phase=PodPhase.FAILED, exit_code=137, created=now)
    soon = now + timedelta(seconds=5)
    plan = decide(world(lost), soon)
    assert plan.status.failures == {ExitClass.KILLED: 1}
    assert plan.status.failure_times == ()
    assert created(plan) == []
    assert soon + plan.requeue_after == now + SPARE_PERIOD
    late = decide(world(lost, status=plan.status), now + SPARE_PERIOD)
    assert created(late) == ["gpt-spare-0-1"]


def test_the_jobs_end_is_told_by_a_spare_as_well(world, make_worker, make_spare, now):
    """Every agent hears the conclusion, and its message says so."""
    word = {"exit_class": ExitClass.SUCCEEDED, "message": "said so"}
    ends = {"phase": PodPhase.SUCCEEDED, "finished": now, "conclusion": Conclusion(**word)}
    lost = [make_worker(index, phase=PodPhase.FAILED, exit_code=137) for index in (0, 1)]
    plan = decide(world(*lost, make_spare(0, **ends)), now + LATER)
    assert condition(plan.status, "Concluding").reason == "Completed"


def test_a_new_attempt_begins_without_promotions(world, make_spare, make_job, now):
    status = recorded(world, now)
    suspended = world(status=status)
    paused = suspended.job.model_copy(
        update={"spec": suspended.job.spec.model_copy(update={"suspend": True})}
    )
    stopped = decide(Observed(job=paused), now + LATER).status
    resumed = suspended.job.model_copy(update={"status": stopped})
    plan = decide(Observed(job=resumed), now + LATER)
    assert plan.status.attempts == 2
    assert plan.status.promotions == {}
    assert [name for name in created(plan) if "-coordinator-" not in name][-3:] == [
        "gpt-worker-0-1",
        "gpt-worker-1-2",
        "gpt-spare-0-2",
    ]


def rank(number, agent):
    return RankStatus(rank=number, agent=agent, node="n", phase=Phase.STEP, step=3)


@pytest.mark.parametrize(
    ("phase", "told"), [(MembershipPhase.RUNNING, True), (MembershipPhase.CONCLUDED, False)]
)
def test_the_coordinator_hears_at_once_of_a_pod_that_has_ended(
    world, make_worker, now, phase, told
):
    report = CoordinatorStatus(
        incarnation=1,
        phase=phase,
        generation=Generation(incarnation=1, counter=1),
        ranks=(rank(0, "gpt-worker-0"), rank(1, "gpt-worker-1")),
    )
    unheard = make_worker(1, phase=PodPhase.FAILED, exit_code=137)
    assert decide(world(unheard, coordinator=report), now).gone == ()
    ended = make_worker(1, phase=PodPhase.FAILED, exit_code=137, stopped=True)
    plan = decide(world(ended, coordinator=report), now)
    assert [ref.name for ref in plan.gone] == (["gpt-worker-1"] if told else [])
