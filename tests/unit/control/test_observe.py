"""From API objects to values."""

from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from reknit.protocol.outcome import Conclusion, ExitClass
from reknit_operator.build.coordinator import build_coordinator
from reknit_operator.build.options import BuildOptions
from reknit_operator.build.secret import build_secret
from reknit_operator.build.service import build_service
from reknit_operator.build.worker import build_worker
from reknit_operator.reconcile.observe import observe, owned_by, parse_pod
from reknit_operator.reconcile.observed import PodPhase

OPTIONS = BuildOptions()


@pytest.fixture
def worker(make_job):
    def make(**status):
        pod = build_worker(make_job(), OPTIONS, 1, attempt=2, replacements=3)
        pod["metadata"] |= {"uid": "u", "creationTimestamp": "2026-01-01T12:00:00Z"}
        pod["status"] = status
        return pod

    return make


def container(**state):
    return {"phase": "Failed", "containerStatuses": [{"name": "training", "state": state}]}


def test_identity_comes_from_labels(worker):
    pod = parse_pod(worker())
    assert pod is not None
    assert (pod.role, pod.replica, pod.attempt, pod.replacement) == ("worker", 1, 2, 3)
    assert (pod.phase, pod.ready, pod.ref.uid) == (PodPhase.PENDING, False, "u")
    assert pod.created == datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize("label", ["reknit.dev/role", "reknit.dev/replica", "reknit.dev/job-uid"])
def test_a_pod_without_our_labels_is_none_of_ours(worker, label):
    pod = worker()
    del pod["metadata"]["labels"][label]
    assert parse_pod(pod) is None


def test_termination(worker):
    word = Conclusion(exit_class=ExitClass.PROGRAM_ERROR, message="no")
    terminated = {
        "exitCode": 1,
        "reason": "Error",
        "finishedAt": "2026-01-01T12:00:09Z",
        "message": word.termination_message(),
    }
    pod = parse_pod(worker(**container(terminated=terminated)))
    assert pod is not None
    assert (pod.conclusion, pod.exit_code, pod.reason) == (word, 1, "Error")
    assert pod.finished == datetime(2026, 1, 1, 12, 0, 9, tzinfo=UTC)
    assert pod.ended


@pytest.mark.parametrize(
    "message", ["", "Killed", "{}", '{"exit_class":"New","message":"x"}', None]
)
def test_other_termination_messages_are_no_conclusion(worker, message):
    pod = parse_pod(worker(**container(terminated={"exitCode": 1, "message": message})))
    assert pod is not None
    assert pod.conclusion is None


def test_a_side_container_is_not_looked_at(worker):
    status = container(terminated={"exitCode": 9})
    status["containerStatuses"][0]["name"] = "side"
    pod = parse_pod(worker(**status))
    assert pod is not None
    assert pod.exit_code is None


def test_disruption_explains_more_than_the_exit(worker):
    status = container(terminated={"exitCode": 143, "reason": "Error"})
    status["conditions"] = [
        {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}
    ]
    pod = parse_pod(worker(**status))
    assert pod is not None
    assert pod.reason == "PreemptionByScheduler"


def test_waiting_and_readiness(worker):
    status = container(waiting={"reason": "ErrImagePull"})
    pod = parse_pod(worker(**status, conditions=[{"type": "Ready", "status": "True"}]))
    assert pod is not None
    assert (pod.waiting, pod.ready) == ("ErrImagePull", True)


@pytest.mark.parametrize("reason", ["Unschedulable", "SchedulingGated"])
def test_a_pod_without_a_node_says_so(worker, reason):
    condition = {"type": "PodScheduled", "status": "False", "reason": reason}
    pod = parse_pod(worker(phase="Pending", conditions=[condition]))
    assert pod is not None
    assert pod.waiting == reason


def test_observe_sorts_children_and_leaves_out_those_of_others(make_job, now):
    job = make_job()
    namesake = make_job()
    namesake = namesake.model_copy(
        update={"metadata": namesake.metadata.model_copy(update={"uid": "other"})}
    )
    children = [
        build_worker(job, OPTIONS, 1, attempt=1, replacements=0),
        build_worker(job, OPTIONS, 0, attempt=1, replacements=0),
        build_coordinator(job, OPTIONS, incarnation=1, attempt=1, replacements=0),
        build_service(job),
        build_secret(job, "t"),
        build_worker(namesake, OPTIONS, 7, attempt=1, replacements=0),
        build_secret(namesake, "t"),
    ]
    for number, child in enumerate(children):
        child["metadata"] |= {"uid": str(number), "creationTimestamp": now.isoformat()}
    observed = observe(job.to_object(), children, options=OPTIONS, new_token="t")
    names = [pod.ref.name for pod in observed.pods]
    assert names == ["gpt-coordinator-1", "gpt-worker-0", "gpt-worker-1"]
    assert [ref.name for ref in observed.passive] == ["gpt", "gpt-token"]
    assert not owned_by(children[-1], job.metadata.uid)


def test_token_does_not_show(make_job):
    observed = observe(make_job().to_object(), (), options=OPTIONS, new_token="s3cret")
    assert "s3cret" not in repr(observed)


def test_an_object_of_a_later_version_is_refused(make_job):
    item = make_job().to_object()
    item["spec"]["fromTheFuture"] = True
    with pytest.raises(ValidationError):
        observe(item, (), options=OPTIONS, new_token="t")


@pytest.mark.parametrize(
    ("status", "stopped"),
    [
        (container(terminated={"exitCode": 137}), True),
        ({**container(terminated={"exitCode": 0}), "phase": "Succeeded"}, True),
        (container(running={}), False),
        ({"phase": "Failed"}, False),
        ({**container(terminated={"exitCode": 1}), "phase": "Running"}, False),
    ],
)
def test_a_pod_has_stopped_when_the_end_of_all_its_containers_was_seen(worker, status, stopped):
    pod = parse_pod(worker(**status))
    assert pod is not None
    assert pod.stopped is stopped
