"""Success, deadlines, suspension, clean-up and places."""

from datetime import datetime

import pytest

from reknit.protocol.outcome import ExitClass
from reknit_operator.api.types import Condition, JobStatus
from reknit_operator.constants import CONCLUDING_PATIENCE, STUCK_AFTER, Reason
from reknit_operator.policy.cleanup import outdated, remove, stop
from reknit_operator.policy.deadline import deadline, expiry, overdue
from reknit_operator.policy.elasticity import current, num_required
from reknit_operator.policy.outcome import Outcome
from reknit_operator.policy.success import succeeded
from reknit_operator.policy.suspension import Suspension, suspension
from reknit_operator.reconcile.observed import PodPhase


@pytest.fixture
def finished(make_worker, make_conclusion, now):
    def make(replica=0, exit_class=ExitClass.SUCCEEDED):
        done = exit_class is ExitClass.SUCCEEDED
        phase = PodPhase.SUCCEEDED if done else PodPhase.FAILED
        word = make_conclusion(exit_class)
        return make_worker(replica, phase=phase, conclusion=word, finished=now)

    return make


def test_success_needs_the_word_of_an_agent(make_worker, now):
    silent = make_worker(phase=PodPhase.SUCCEEDED, exit_code=0, finished=now)
    assert succeeded([silent], now) is None
    assert succeeded([], now) is None


@pytest.mark.parametrize(("phase", "waits"), [(PodPhase.PENDING, False), (PodPhase.RUNNING, True)])
def test_a_pod_that_never_ran_holds_up_no_success(
    finished, make_spare, make_worker, now, phase, waits
):
    for late in (make_spare(phase=phase), make_worker(1, phase=phase)):
        assert isinstance(succeeded([finished(0), late], now), datetime) == waits


def test_success_when_all_have_left(finished, now):
    outcome = succeeded([finished(0), finished(1)], now)
    assert isinstance(outcome, Outcome)
    assert (outcome.reason, outcome.step, outcome.succeeded) == (Reason.COMPLETED, 9, True)


def test_others_get_time_to_leave(finished, make_worker, now, seconds):
    workers = [finished(0), make_worker(1)]
    until = now + CONCLUDING_PATIENCE
    assert succeeded(workers, now) == until
    assert succeeded(workers, until - seconds(1)) == until
    assert isinstance(succeeded(workers, until), Outcome)


def test_a_pod_lost_while_closing_does_not_spoil_success(finished, make_worker, now):
    lost = make_worker(1, phase=PodPhase.FAILED, exit_code=137, finished=now)
    assert isinstance(succeeded([finished(0), lost], now), Outcome)


def test_deadline_counts_from_the_start(make_job, now, seconds):
    job = make_job(activeDeadlineSeconds=60)
    running = JobStatus(start_time=now)
    assert deadline(job.spec, JobStatus()) is None
    assert deadline(job.spec, running) == now + seconds(60)
    assert overdue(job.spec, running, now + seconds(59)) is None
    outcome = overdue(job.spec, running, now + seconds(60))
    assert outcome is not None
    assert outcome.reason is Reason.DEADLINE_EXCEEDED
    assert "60 seconds" in outcome.message


def test_no_limits_by_default(make_job, now):
    spec = make_job().spec
    assert deadline(spec, JobStatus(start_time=now)) is None
    assert expiry(spec, JobStatus(completion_time=now)) is None


def test_expiry_counts_from_the_end(make_job, now, seconds):
    spec = make_job(ttlSecondsAfterFinished=0).spec
    assert expiry(spec, JobStatus()) is None
    assert expiry(spec, JobStatus(completion_time=now)) == now
    spec = make_job(ttlSecondsAfterFinished=5).spec
    assert expiry(spec, JobStatus(completion_time=now)) == now + seconds(5)


@pytest.mark.parametrize(
    ("suspend", "reason", "expected"),
    [
        (False, None, Suspension.RUN),
        (False, Reason.NOT_SUSPENDED, Suspension.RUN),
        (False, Reason.RESUMED, Suspension.RUN),
        (False, Reason.SUSPENDING, Suspension.RESUME),
        (False, Reason.SUSPENDED, Suspension.RESUME),
        (True, None, Suspension.SUSPEND),
        (True, Reason.RESUMED, Suspension.SUSPEND),
        (True, Reason.SUSPENDED, Suspension.SUSPEND),
    ],
)
def test_suspension(make_job, now, suspend, reason, expected):
    conditions = ()
    if reason is not None:
        conditions = (
            Condition(type="Suspended", status="False", reason=reason, last_transition_time=now),
        )
    assert (
        suspension(make_job(suspend=suspend, status=JobStatus(conditions=conditions))) is expected
    )


def test_workers_stop_before_their_coordinator(make_worker, make_coordinator, now):
    worker, coordinator = make_worker(), make_coordinator()
    first = stop([coordinator, worker], now)
    assert (first.delete, first.done) == ((worker,), False)
    leaving = make_worker(deleted=now)
    second = stop([coordinator, leaving], now)
    assert (second.delete, second.done, second.look_again) == ((), False, now + STUCK_AFTER)
    third = stop([coordinator, make_worker(phase=PodPhase.FAILED)], now)
    assert third.delete == (coordinator,)
    last = stop([make_worker(phase=PodPhase.FAILED)], now)
    assert (last.delete, last.done) == ((), True)


def test_a_pod_on_a_dead_node_is_forced_out(make_worker, now):
    pod = make_worker(deleted=now)
    removal = remove([pod], now + STUCK_AFTER)
    assert (removal.force, removal.delete, removal.done) == ((pod,), (), False)


def test_newest_ended_pod_is_kept_for_its_logs(make_worker):
    old = [make_worker(0, replacement=n, phase=PodPhase.FAILED) for n in range(3)]
    hanging = make_worker(1, replacement=0)
    present = [make_worker(0, replacement=3), make_worker(1, replacement=1)]
    gone = outdated([*old, hanging, *present], 1, present)
    assert gone == [old[0], old[1], hanging]


def test_places(make_job, make_worker, make_coordinator):
    status = JobStatus(
        attempts=2, replacements={"worker-1": 3}, membership={"incarnation": 4, "generation": 0}
    )
    wanted = [
        make_worker(0, attempt=2),
        make_worker(1, attempt=2, replacement=3),
        make_coordinator(4, attempt=2),
    ]
    others = [
        make_worker(0, attempt=1),
        make_worker(1, attempt=2, replacement=2),
        make_worker(2, attempt=2),
        make_coordinator(3, attempt=2),
        make_coordinator(4, attempt=1),
    ]
    assert current([*others, *wanted], make_job(), status) == wanted


def test_required_workers(make_job):
    workers = {"replicas": 4, "minReplicas": 2}
    assert num_required(make_job(workers=workers)) == 4
    assert num_required(make_job(workers=workers, recovery={"onLoss": "Shrink"})) == 2
