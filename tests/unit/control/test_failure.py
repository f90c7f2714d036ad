"""Classes of failures, and what is done about them."""

import pytest

from reknit.protocol.outcome import ExitClass
from reknit_operator.api.types import CountsTowards, Rule, RuleAction
from reknit_operator.constants import IMAGE_PATIENCE, Reason
from reknit_operator.policy.failure import classify, job_failure, patience_ends, remedy
from reknit_operator.reconcile.observed import PodPhase

FAILED = PodPhase.FAILED


def test_a_running_pod_has_not_failed(make_worker, now):
    assert classify(make_worker(), now) is None


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"exit_code": 137}, ExitClass.KILLED),
        ({"exit_code": 137, "reason": "OOMKilled"}, ExitClass.OUT_OF_MEMORY),
        ({"exit_code": 143}, ExitClass.PREEMPTED),
        ({"exit_code": 1, "reason": "Error"}, ExitClass.INFRASTRUCTURE),
        ({"exit_code": 127}, ExitClass.CONFIGURATION),
        ({"exit_code": 128, "reason": "StartError"}, ExitClass.CONFIGURATION),
        ({"reason": "Evicted"}, ExitClass.INFRASTRUCTURE),
        ({"reason": "PreemptionByScheduler", "exit_code": 143}, ExitClass.PREEMPTED),
        ({"reason": "DeletionByTaintManager"}, ExitClass.INFRASTRUCTURE),
        ({"phase": PodPhase.SUCCEEDED, "exit_code": 0}, ExitClass.INFRASTRUCTURE),
    ],
)
def test_class_without_a_word_of_the_agent(make_worker, now, fields, expected):
    failure = classify(make_worker(**{"phase": FAILED, **fields}), now)
    assert failure is not None
    assert (failure.exit_class, failure.job_wide) == (expected, False)


@pytest.mark.parametrize("phase", [PodPhase.RUNNING, FAILED])
def test_a_wanted_pod_that_someone_deletes_is_preempted(make_worker, now, phase):
    failure = classify(make_worker(phase=phase, deleted=now, exit_code=1), now)
    assert failure is not None
    assert failure.exit_class is ExitClass.PREEMPTED


@pytest.mark.parametrize(
    ("exit_class", "job_wide"),
    [
        (ExitClass.PROGRAM_ERROR, True),
        (ExitClass.CONFIGURATION, True),
        (ExitClass.KILLED, True),
        (ExitClass.OUT_OF_MEMORY, True),
        (ExitClass.PREEMPTED, False),
        (ExitClass.INFRASTRUCTURE, False),
    ],
)
def test_the_agents_word_wins(make_worker, make_conclusion, now, exit_class, job_wide):
    pod = make_worker(phase=FAILED, exit_code=143, conclusion=make_conclusion(exit_class))
    failure = classify(pod, now)
    assert failure is not None
    assert (failure.exit_class, failure.job_wide) == (exit_class, job_wide)
    assert str(failure) == f"said {exit_class}"


def test_success_is_no_failure(make_worker, make_conclusion, now):
    word = make_conclusion(ExitClass.SUCCEEDED)
    assert classify(make_worker(phase=PodPhase.SUCCEEDED, conclusion=word), now) is None


def test_a_missing_image_is_waited_for_a_while(make_worker, now):
    pod = make_worker(phase=PodPhase.PENDING, waiting="ImagePullBackOff")
    assert patience_ends(pod) == now + IMAGE_PATIENCE
    assert classify(pod, now) is None
    failure = classify(pod, now + IMAGE_PATIENCE)
    assert failure is not None
    assert failure.exit_class is ExitClass.CONFIGURATION
    assert "ImagePullBackOff" in str(failure)


@pytest.mark.parametrize("reason", ["CreateContainerError", "RunContainerError", "ErrImagePull"])
def test_a_container_that_cannot_be_made_is_a_wrong_configuration(make_worker, now, reason):
    pod = make_worker(phase=PodPhase.PENDING, waiting=reason)
    failure = classify(pod, now + IMAGE_PATIENCE)
    assert failure is not None
    assert (failure.exit_class, failure.job_wide) == (ExitClass.CONFIGURATION, False)


def test_a_pod_without_a_node_is_waited_for(make_worker, now):
    pod = make_worker(phase=PodPhase.PENDING, waiting="Unschedulable")
    assert classify(pod, now + 10 * IMAGE_PATIENCE) is None


def test_an_impossible_image_is_not_waited_for(make_worker, now):
    pod = make_worker(phase=PodPhase.PENDING, waiting="InvalidImageName")
    assert patience_ends(pod) is None
    assert classify(pod, now) is not None


@pytest.mark.parametrize(
    ("exit_class", "action", "counts"),
    [
        (ExitClass.PROGRAM_ERROR, RuleAction.FAIL_JOB, CountsTowards.FAILURES),
        (ExitClass.CONFIGURATION, RuleAction.FAIL_JOB, CountsTowards.FAILURES),
        (ExitClass.KILLED, RuleAction.FAIL_JOB, CountsTowards.FAILURES),
        (ExitClass.INFRASTRUCTURE, RuleAction.REPLACE_POD, CountsTowards.FAILURES),
        (ExitClass.PREEMPTED, RuleAction.REPLACE_POD, CountsTowards.PREEMPTIONS),
    ],
)
def test_defaults(make_worker, make_conclusion, now, exit_class, action, counts):
    failure = classify(make_worker(phase=FAILED, conclusion=make_conclusion(exit_class)), now)
    assert failure is not None
    chosen = remedy(failure, ())
    assert (chosen.action, chosen.counts_towards, chosen.by_rule) == (action, counts, False)


def test_a_killed_pod_is_replaced(make_worker, now):
    failure = classify(make_worker(phase=FAILED, exit_code=137), now)
    assert failure is not None
    assert remedy(failure, ()).action is RuleAction.REPLACE_POD


def test_first_matching_rule_decides(make_worker, now):
    rules = [
        Rule(on_exit_codes=(3, 4), action=RuleAction.FAIL_JOB),
        Rule(
            on_exit_codes=(4, 5),
            on_reason=ExitClass.INFRASTRUCTURE,
            action=RuleAction.REPLACE_POD,
            counts_towards=CountsTowards.PREEMPTIONS,
        ),
        Rule(on_reason=ExitClass.KILLED, action=RuleAction.FAIL_JOB),
    ]

    def chosen(exit_code):
        failure = classify(make_worker(phase=FAILED, exit_code=exit_code), now)
        assert failure is not None
        return remedy(failure, rules)

    assert (chosen(4).action, chosen(4).by_rule) == (RuleAction.FAIL_JOB, True)
    assert chosen(5).counts_towards is CountsTowards.PREEMPTIONS
    assert chosen(137).action is RuleAction.FAIL_JOB
    assert (chosen(6).action, chosen(6).by_rule) == (RuleAction.REPLACE_POD, False)


def test_rules_are_about_workers(make_coordinator, now):
    failure = classify(make_coordinator(phase=FAILED, exit_code=3), now)
    assert failure is not None
    rules = [Rule(on_exit_codes=(3,), action=RuleAction.FAIL_JOB)]
    assert remedy(failure, rules).action is RuleAction.REPLACE_POD


@pytest.mark.parametrize(
    ("exit_class", "by_rule", "reason"),
    [
        (ExitClass.PROGRAM_ERROR, False, Reason.PROGRAM_ERROR),
        (ExitClass.CONFIGURATION, True, Reason.CONFIGURATION),
        (ExitClass.KILLED, False, Reason.TOO_MANY_RECOVERIES),
        (ExitClass.PREEMPTED, True, Reason.RULE_MATCHED),
    ],
)
def test_reasons(make_worker, make_conclusion, now, exit_class, by_rule, reason):
    word = make_conclusion(exit_class, traceback="Traceback: here")
    failure = classify(make_worker(phase=FAILED, conclusion=word), now)
    assert failure is not None
    outcome = job_failure(failure, by_rule)
    assert (outcome.reason, outcome.succeeded) == (reason, False)
    assert (outcome.traceback, outcome.step) == ("Traceback: here", 9)


def test_failure_tells_what_is_known(make_worker, now):
    failure = classify(make_worker(phase=FAILED, exit_code=9), now)
    assert str(failure) == "pod gpt-worker-0 failed: Infrastructure (exit status 9)"
