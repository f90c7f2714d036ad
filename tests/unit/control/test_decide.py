"""What is decided about one job in one situation."""

from datetime import timedelta

import pytest

from plans import condition, created, deleted, reasons
from reknit.protocol.base import Generation
from reknit.protocol.outcome import ExitClass
from reknit.protocol.status import CoordinatorStatus, MembershipPhase, Progress
from reknit_operator.api.types import JobStatus, Membership
from reknit_operator.build.options import BuildOptions
from reknit_operator.constants import IMAGE_PATIENCE, STATUS_PERIOD, STUCK_AFTER, Kind
from reknit_operator.reconcile.decide import decide
from reknit_operator.reconcile.observed import Observed, PodPhase


def test_first_pass_starts_everything(make_job, now):
    plan = decide(Observed(job=make_job(), new_token="secret"), now)
    names = ["gpt-token", "gpt", "gpt-coordinator-1", "gpt-worker-0", "gpt-worker-1"]
    assert created(plan) == names
    assert plan.status is not None
    assert (plan.status.attempts, plan.status.membership.incarnation) == (1, 1)
    assert plan.status.start_time == now
    assert plan.status.observed_generation == 3
    assert reasons(plan) == ["Started"]
    assert "secret" not in repr(plan)


def test_second_pass_is_empty(settled, now):
    assert decide(settled(), now).empty


def test_a_job_that_is_being_deleted_is_left_alone(make_job, now):
    job = make_job()
    metadata = job.metadata.model_copy(update={"deletion_timestamp": now})
    assert decide(Observed(job=job.model_copy(update={"metadata": metadata})), now).empty


def test_an_impossible_manifest_fails_before_anything_starts(make_job, now):
    job = make_job(parallelism={"data": 3})
    plan = decide(Observed(job=job), now)
    assert plan.creates == ()
    assert plan.status is not None
    failed = condition(plan.status, "Failed")
    assert failed is not None
    assert (failed.status, failed.reason) == ("True", "Configuration")
    assert "parallelism" in (plan.status.message or "")


def test_a_lost_worker_is_counted_and_replaced_under_a_new_name(settled, make_worker, now):
    lost = make_worker(1, phase=PodPhase.FAILED, exit_code=137)
    later = now + timedelta(seconds=5)
    plan = decide(settled(lost), later)
    assert created(plan) == ["gpt-worker-1-1"]
    assert plan.status is not None
    assert plan.status.failures == {ExitClass.KILLED: 1}
    assert plan.status.replacements == {"worker-1": 1}
    assert len(plan.status.failure_times) == 1
    assert plan.deletes == ()
    labels = plan.creates[0]["metadata"]["labels"]
    assert labels["reknit.dev/replica"] == "1"


def test_a_failure_is_counted_once(settled, make_worker, now):
    lost = make_worker(1, phase=PodPhase.FAILED, exit_code=137)
    later = now + timedelta(seconds=5)
    status = decide(settled(lost), later).status
    again = decide(settled(lost, make_worker(1, replacement=1), status=status), later)
    assert again.status is None or again.status.failures == {ExitClass.KILLED: 1}
    assert created(again) == []


def test_a_drained_pod_is_replaced_without_cost(settled, make_worker, now):
    leaving = make_worker(0, deleted=now)
    later = now + timedelta(seconds=5)
    plan = decide(settled(leaving), later)
    assert created(plan) == ["gpt-worker-0-1"]
    assert plan.status is not None
    assert plan.status.failures == {ExitClass.PREEMPTED: 1}
    assert plan.status.failure_times == ()
    assert plan.requeue_after is not None
    assert later + plan.requeue_after == now + STUCK_AFTER


def test_a_pod_that_never_goes_is_forced_out(settled, make_worker, now):
    stuck = make_worker(0, deleted=now)
    status = decide(settled(stuck), now + timedelta(seconds=2)).status
    plan = decide(settled(stuck, make_worker(0, replacement=1), status=status), now + STUCK_AFTER)
    assert [(gone.ref.name, gone.force) for gone in plan.deletes] == [("gpt-worker-0", True)]


def test_repeated_failures_wait(settled, make_worker, now):
    seconds = [now - timedelta(seconds=number) for number in (60, 30, 10)]
    lost = make_worker(1, phase=PodPhase.FAILED, exit_code=137)
    before = settled(lost)
    status = before.job.status.model_copy(update={"failure_times": tuple(seconds)})
    later = now + timedelta(seconds=5)
    plan = decide(settled(lost, status=status), later)
    assert plan.status is not None
    assert created(plan) == []
    assert plan.requeue_after == timedelta(seconds=4)
    after = settled(lost, status=plan.status)
    assert created(decide(after, later + plan.requeue_after)) == ["gpt-worker-1-1"]


def test_budget(settled, make_job, make_worker, now):
    job = make_job(recovery={"budget": {"failures": 0}})
    lost = make_worker(1, phase=PodPhase.FAILED, exit_code=137)
    plan = decide(settled(lost, job=job), now)
    assert plan.status is not None
    concluding = condition(plan.status, "Concluding")
    assert concluding is not None
    assert concluding.reason == "BudgetExhausted"
    assert "gpt-worker-1" in (plan.status.message or "")
    assert created(plan) == []
    assert deleted(plan) == ["gpt-worker-0"]
    assert reasons(plan) == ["BudgetExhausted"]


def test_a_program_error_ends_the_job_with_the_users_traceback(
    settled, make_worker, make_conclusion, now
):
    word = make_conclusion(ExitClass.PROGRAM_ERROR, traceback='File "gpt.py", line 3')
    plan = decide(settled(make_worker(0, phase=PodPhase.FAILED, conclusion=word)), now)
    assert plan.status is not None
    assert plan.status.traceback == 'File "gpt.py", line 3'
    assert plan.status.message == "said ProgramError"
    assert plan.status.failures == {ExitClass.PROGRAM_ERROR: 1}
    assert plan.status.completion_time is None
    assert plan.status.progress.step == 9
    assert 'File "gpt.py", line 3' in plan.events[0].message


def test_terminal_condition_comes_after_the_clean_up(settled, make_worker, make_conclusion, now):
    word = make_conclusion(ExitClass.SUCCEEDED)
    done = [
        make_worker(replica, phase=PodPhase.SUCCEEDED, conclusion=word, finished=now)
        for replica in (0, 1)
    ]
    first = decide(settled(*done), now)
    assert deleted(first) == ["gpt-coordinator-1"]
    assert first.status is not None
    assert condition(first.status, "Succeeded").status == "Unknown"
    assert reasons(first) == ["Completed"]

    def later(**fields):
        return settled(*done, with_pods=False, status=first.status, **fields)

    second = decide(later(), now)
    assert deleted(second) == ["gpt", "gpt-token"]
    assert second.status is None or second.status.completion_time is None
    third = decide(later(passive=()), now)
    assert third.status is not None
    assert third.status.completion_time == now
    assert condition(third.status, "Succeeded").status == "True"
    assert condition(third.status, "Failed").status == "False"
    assert condition(third.status, "Concluding") is None
    assert condition(third.status, "PodsReady").reason == "Ended"
    assert reasons(third) == []


def test_the_outcome_survives_the_loss_of_all_evidence(settled, make_worker, make_conclusion, now):
    word = make_conclusion(ExitClass.PROGRAM_ERROR, traceback="here")
    first = decide(settled(make_worker(0, phase=PodPhase.FAILED, conclusion=word)), now)
    bare = settled(with_pods=False, passive=(), status=first.status)
    last = decide(bare, now)
    assert created(last) == []
    assert last.status is not None
    assert condition(last.status, "Failed").reason == "ProgramError"
    assert last.status.traceback == "here"


def test_nothing_is_replaced_while_the_last_workers_leave(
    settled, make_worker, make_conclusion, now
):
    word = make_conclusion(ExitClass.SUCCEEDED)
    pods = [
        make_worker(0, phase=PodPhase.SUCCEEDED, conclusion=word, finished=now),
        make_worker(1, phase=PodPhase.RUNNING, deleted=now),
    ]
    plan = decide(settled(*pods), now)
    assert (created(plan), deleted(plan)) == ([], [])
    assert plan.requeue_after is not None


def test_a_rule_can_restart_what_the_membership_gave_up(
    settled, make_job, make_worker, make_conclusion, now
):
    rules = [{"onReason": "ProgramError", "action": "ReplacePod"}]
    job = make_job(recovery={"rules": rules})
    word = make_conclusion(ExitClass.PROGRAM_ERROR)
    failed = make_worker(0, phase=PodPhase.FAILED, conclusion=word)
    plan = decide(settled(failed, job=job), now)
    assert plan.status is not None
    assert plan.status.attempts == 2
    assert created(plan) == []
    assert deleted(plan) == ["gpt-worker-1", "gpt-worker-0"]
    gone = settled(job=job, with_pods=False, status=plan.status)
    again = decide(gone, now + timedelta(seconds=9))
    assert created(again) == ["gpt-coordinator-2", "gpt-worker-0-1", "gpt-worker-1-1"]


def test_a_dead_coordinator_gets_a_successor_and_training_is_left_alone(
    settled, make_coordinator, now
):
    dead = make_coordinator(phase=PodPhase.FAILED, exit_code=137)
    plan = decide(settled(dead), now + timedelta(seconds=3))
    assert created(plan) == ["gpt-coordinator-2"]
    assert deleted(plan) == []
    assert plan.status is not None
    assert plan.status.membership.incarnation == 2
    assert plan.creates[0]["metadata"]["labels"]["reknit.dev/incarnation"] == "2"


def test_a_coordinator_that_has_to_wait_takes_its_number_when_it_comes(
    settled, make_coordinator, now
):
    dead = make_coordinator(phase=PodPhase.FAILED, exit_code=1)
    waiting = decide(settled(dead), now)
    assert created(waiting) == []
    assert waiting.requeue_after == timedelta(seconds=1)
    assert waiting.status is not None
    assert waiting.status.membership.incarnation == 1
    assert waiting.status.replacements == {"coordinator-0": 1}
    plan = decide(settled(dead, status=waiting.status), now + timedelta(seconds=1))
    assert created(plan) == ["gpt-coordinator-2"]
    assert plan.status is not None
    assert plan.status.failures == {ExitClass.INFRASTRUCTURE: 1}


def test_an_incarnation_is_never_used_for_a_second_pod(settled, make_worker, now):
    only_workers = settled(make_worker(0), make_worker(1), with_pods=False)
    assert only_workers.job.status.membership.incarnation == 1
    plan = decide(only_workers, now + timedelta(seconds=3))
    assert created(plan) == ["gpt-coordinator-2"]
    assert plan.status is not None
    assert plan.status.membership.incarnation == 2


def test_the_next_attempt_waits_for_the_last_pods_of_the_one_before(settled, make_worker, now):
    leaving = make_worker(0, deleted=now)
    before = settled()
    status = before.job.status.model_copy(update={"attempts": 2})
    plan = decide(settled(leaving, with_pods=False, status=status), now)
    assert created(plan) == []
    assert plan.requeue_after == STUCK_AFTER


def test_deadline(settled, make_job, now):
    job = make_job(activeDeadlineSeconds=60)
    assert decide(settled(job=job), now).requeue_after == timedelta(seconds=60)
    plan = decide(settled(job=job), now + timedelta(seconds=60))
    assert plan.status is not None
    assert condition(plan.status, "Concluding").reason == "DeadlineExceeded"
    assert deleted(plan) == ["gpt-worker-0", "gpt-worker-1"]


def test_a_finished_job_is_deleted_in_time(make_job, make_worker, now):
    job = make_job(ttlSecondsAfterFinished=60, status=JobStatus(attempts=1, completion_time=now))
    assert decide(Observed(job=job), now).requeue_after == timedelta(seconds=60)
    plan = decide(Observed(job=job), now + timedelta(seconds=60))
    assert [gone.ref.kind for gone in plan.deletes] == [Kind.JOB]
    assert plan.deletes[0].ref.uid == job.metadata.uid
    late = decide(Observed(job=job, pods=(make_worker(),)), now + timedelta(seconds=60))
    assert deleted(late) == ["gpt-worker-0"]


def test_an_image_that_does_not_come_fails_the_job(settled, make_worker, now):
    pending = make_worker(0, phase=PodPhase.PENDING, ready=False, waiting="ErrImagePull")
    plan = decide(settled(pending), now)
    assert plan.requeue_after == IMAGE_PATIENCE
    assert plan.status is not None
    ready = condition(plan.status, "PodsReady")
    assert (ready.status, "ErrImagePull" in ready.message) == ("False", True)
    failed = decide(settled(pending), now + IMAGE_PATIENCE)
    assert failed.status is not None
    assert condition(failed.status, "Concluding").reason == "Configuration"


def test_surplus_workers_go(settled, make_worker, now):
    assert deleted(decide(settled(make_worker(2)), now)) == ["gpt-worker-2"]


@pytest.fixture
def report():
    def make(phase=MembershipPhase.RUNNING, *, incarnation=1, step=5):
        generation = Generation(incarnation=incarnation, counter=2)
        return CoordinatorStatus(
            incarnation=incarnation,
            phase=phase,
            generation=generation,
            progress=Progress(step=step, total_steps=10, loss=0.123456789),
        )

    return make


def test_training_shows_in_the_conditions(settled, report, now):
    running = settled(coordinator=report()).job.status
    assert condition(running, "Running").status == "True"
    broken = decide(
        settled(coordinator=report(MembershipPhase.RECOVERING), status=running), now
    ).status
    assert broken is not None
    assert condition(broken, "Running").status == "False"
    assert condition(broken, "Recovering").status == "True"
    assert broken.membership == Membership(incarnation=1, generation=2)


def test_progress_is_written_rarely(settled, report, now):
    first = settled(coordinator=report(step=5)).job.status
    assert (first.progress.step, first.progress.loss) == (5, 0.123457)

    def at(moment, step):
        moving = settled(coordinator=report(step=step), status=first, written=now)
        return decide(moving, moment)

    soon = at(now + timedelta(seconds=10), 6)
    assert soon.empty
    assert soon.requeue_after == STATUS_PERIOD - timedelta(seconds=10)
    due = at(now + STATUS_PERIOD, 7)
    assert due.status is not None
    assert due.status.progress.step == 7


def test_the_report_of_an_earlier_incarnation_is_not_believed(settled, report, now):
    plan = decide(settled(coordinator=report(incarnation=0)), now)
    assert plan.empty


def test_an_unreachable_coordinator_changes_nothing(settled, report, now):
    status = settled(coordinator=report()).job.status
    assert decide(settled(status=status), now).empty


def test_the_coordinator_hears_which_of_the_pods_that_it_misses_are_no_more(
    settled, make_worker, now
):
    report = CoordinatorStatus(
        incarnation=1,
        phase=MembershipPhase.WAITING,
        missing=("gpt-worker-0", "gpt-worker-1", "gpt-worker-2", "gpt-worker-9"),
    )
    unheard = make_worker(1, phase=PodPhase.FAILED, reason="NodeLost")
    ended = make_worker(2, phase=PodPhase.FAILED, stopped=True)
    plan = decide(settled(unheard, ended, coordinator=report), now)
    assert [ref.name for ref in plan.gone] == ["gpt-worker-2", "gpt-worker-9"]
    stale = report.model_copy(update={"incarnation": 0})
    assert decide(settled(unheard, ended, coordinator=stale), now).gone == ()


@pytest.mark.parametrize(
    ("spec", "options", "is_told"),
    [
        ({}, BuildOptions(), True),
        ({}, BuildOptions(checkpoint_root="/runs/1"), False),
        ({"checkpoint": {"volume": {"hostPath": {"path": "/ckpt"}}}}, BuildOptions(), False),
        ({"entrypoint": {"command": ["python"]}, "batch": None}, BuildOptions(), False),
    ],
)
def test_a_job_that_cannot_write_checkpoints_is_told_so(make_job, now, spec, options, is_told):
    plan = decide(Observed(job=make_job(**spec), options=options), now)
    (event,) = plan.events
    assert ("no checkpoint.volume" in event.message) is is_told
