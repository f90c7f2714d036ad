"""What is decided about a job that is to stop for a while."""

from datetime import timedelta

import pytest

from plans import condition, created, deleted, reasons
from reknit.protocol.outcome import Conclusion, ExitClass
from reknit.protocol.status import CoordinatorStatus, MembershipPhase
from reknit_operator.reconcile.decide import decide
from reknit_operator.reconcile.observed import Observed, PodPhase


def test_suspension_and_resumption(settled, make_job, make_coordinator, now):
    job = make_job(suspend=True)
    status = settled().job.status

    def suspended(*pods, status):
        return settled(*pods, job=job, with_pods=False, status=status)

    first = decide(settled(job=job, status=status), now)
    assert deleted(first) == ["gpt-worker-0", "gpt-worker-1"]
    assert first.status is not None
    assert condition(first.status, "Suspended").reason == "Suspending"
    second = decide(suspended(make_coordinator(), status=first.status), now)
    assert deleted(second) == ["gpt-coordinator-1"]
    third = decide(suspended(status=second.status or first.status), now)
    assert third.status is not None
    assert condition(third.status, "Suspended").status == "True"
    assert reasons(third) == ["Suspended"]
    assert decide(suspended(status=third.status), now).empty
    later = now + timedelta(hours=9)
    resumed = decide(settled(with_pods=False, status=third.status), later)
    assert resumed.status is not None
    assert (resumed.status.attempts, resumed.status.start_time) == (2, later)
    assert created(resumed) == ["gpt-coordinator-2", "gpt-worker-0-1", "gpt-worker-1-1"]
    assert resumed.status.failures == {}


@pytest.mark.parametrize("told_by", ["pod", "coordinator"])
def test_a_suspension_says_what_it_has_cost(
    settled, make_job, make_worker, make_coordinator, now, told_by
):
    job, lost = make_job(suspend=True), "the last checkpoint (step 9) could not be written"
    said = Conclusion(exit_class=ExitClass.PREEMPTED, message="left", unsaved=lost)
    pod = make_worker(1, phase=PodPhase.FAILED, deleted=now, exit_code=143, conclusion=said)
    report = CoordinatorStatus(
        incarnation=1, phase=MembershipPhase.WAITING, checkpoint={"unsaved": lost}
    )
    first = decide(
        settled(
            make_coordinator(),
            *([pod] if told_by == "pod" else []),
            job=job,
            with_pods=False,
            status=settled().job.status,
            coordinator=report if told_by == "coordinator" else None,
        ),
        now,
    )
    assert first.status is not None
    assert condition(first.status, "Suspended").message == lost
    second = decide(settled(job=job, with_pods=False, status=first.status), now)
    assert second.status is not None
    suspended = condition(second.status, "Suspended")
    assert (suspended.status, suspended.message) == ("True", lost)
    [event] = second.events
    assert event.type == "Warning"
    assert lost in event.message
    resumed = decide(settled(with_pods=False, status=second.status), now)
    assert resumed.status is not None
    assert condition(resumed.status, "Suspended").message == ""


def test_a_job_can_begin_suspended(make_job, now):
    plan = decide(Observed(job=make_job(suspend=True)), now)
    assert plan.creates == ()
    assert plan.status is not None
    assert plan.status.attempts == 0
    resumed = make_job(status=plan.status)
    started = decide(Observed(job=resumed), now)
    assert started.status is not None
    assert started.status.attempts == 1
    assert "gpt-worker-0" in created(started)
