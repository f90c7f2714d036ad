"""The operator's process against a real API server; a fake node sets the statuses of pods."""

import os
import re
import signal

import pytest

from chart import render
from fakenode import FakeNode
from kubeapi import RefusalError, eventually
from manifests import change
from operatorprocess import OperatorProcess
from reknit.protocol.outcome import ExitClass
from reknit_operator.api.types import DistributedTrainingJob
from reknit_operator.constants import Kind
from reknit_operator.kube.resources import EVENTS, collection_path

NAME = "gpt"
WORKERS = {f"{NAME}-worker-0", f"{NAME}-worker-1"}
EVERYTHING = {*WORKERS, f"{NAME}-coordinator-1"}
PASSIVE = (Kind.SERVICE, Kind.SECRET, Kind.NETWORK_POLICY, Kind.DISRUPTION_BUDGET)


def manifest(namespace, **changes):
    changes = {name.replace("__", "."): value for name, value in changes.items()}
    return change(
        {"metadata.name": NAME, "metadata.namespace": namespace, "spec.workers.replicas": 2}
        | changes
    )


def condition(job, kind):
    conditions = job.get("status", {}).get("conditions", ())
    return next((found for found in conditions if found["type"] == kind), {"status": None})


def holds(kind, status="True"):
    return lambda jobs: NAME in jobs and condition(jobs[NAME], kind)["status"] == status


def says(reason):
    """Whether the job tells that its pods wait for this reason."""

    def check(jobs):
        found = condition(jobs.get(NAME, {}), "PodsReady")
        return reason in found.get("message", "")

    return check


def phases(phase, names):
    """Whether exactly these pods are in this phase and are not being deleted."""

    def check(pods):
        found = {
            name
            for name, pod in pods.items()
            if pod["status"]["phase"] == phase and "deletionTimestamp" not in pod["metadata"]
        }
        return found == set(names)

    return check


async def told(api, namespace):
    """Reasons and messages of the job's events, oldest first."""
    listed = await api.call("GET", collection_path(EVENTS, namespace))
    events = sorted(listed["items"], key=lambda item: int(item["metadata"]["resourceVersion"]))
    return [(event["reason"], event["message"]) for event in events]


@pytest.fixture
async def operator(server, namespace, tmp_path):
    options = [f"--namespace={namespace}", "--coordinator-client=sys", "--disruption-budgets"]
    process = OperatorProcess(server, tmp_path, options)
    await process.start()
    yield process
    await process.end()


@pytest.fixture
async def node(api, namespace):
    async with FakeNode(api, namespace).running() as running:
        yield running


@pytest.fixture
async def pods(api, namespace, operator, node):
    """The pods of a job that runs."""
    await api.create(manifest(namespace))
    return await api.until(Kind.POD, namespace, phases("Running", EVERYTHING))


async def job_of(api, namespace):
    return DistributedTrainingJob.model_validate(await api.get(Kind.JOB, namespace, NAME))


async def test_a_job_gets_all_that_it_needs_and_owns_it(api, namespace, pods):
    job = (await api.until(Kind.JOB, namespace, holds("PodsReady")))[NAME]
    children = list(pods.values())
    for kind in PASSIVE:
        made = await api.list(kind, namespace)
        assert len(made) == 1, kind
        children += made
    for child in children:
        (owner,) = child["metadata"]["ownerReferences"]
        assert (owner["uid"], owner["controller"]) == (job["metadata"]["uid"], True)
    ((reason, sentence),) = await told(api, namespace)
    assert (reason, sentence.partition(",")[0]) == ("Started", "attempt 1 began")
    # kopf has left nothing of its own.
    assert "finalizers" not in job["metadata"]
    assert "annotations" not in job["metadata"]


async def test_success_is_what_the_workers_say(api, namespace, node, pods):
    for name in WORKERS:
        await node.conclude(pods[name], ExitClass.SUCCEEDED)
    job = (await api.until(Kind.JOB, namespace, holds("Succeeded")))[NAME]
    assert condition(job, "Succeeded")["message"] == "done"
    (shown,) = await api.table(Kind.JOB, namespace)
    assert (shown["Name"], shown["State"], shown["Step"]) == (NAME, "Succeeded", 7)
    for kind in PASSIVE:
        assert await api.list(kind, namespace) == []
    left = {pod["metadata"]["name"] for pod in await api.list(Kind.POD, namespace)}
    assert left == WORKERS, "pods are kept for their logs"
    assert ("Completed", "done") in await told(api, namespace)


@pytest.mark.parametrize(
    ("end", "expected", "charged"),
    [
        ({"code": 137, "reason": "OOMKilled"}, ExitClass.OUT_OF_MEMORY, 1),
        ({"code": 137}, ExitClass.KILLED, 1),
        ({"code": 143, "disruption": "PreemptionByScheduler"}, ExitClass.PREEMPTED, 0),
        ({"code": 143, "disruption": "EvictionByEvictionAPI"}, ExitClass.PREEMPTED, 0),
        ({"code": 137, "disruption": "TerminationByKubelet"}, ExitClass.INFRASTRUCTURE, 1),
        ({"code": 137, "disruption": "DeletionByTaintManager"}, ExitClass.INFRASTRUCTURE, 1),
    ],
)
async def test_a_failed_pod_is_replaced_under_a_new_name(
    api, namespace, node, pods, end, expected, charged
):
    await node.end(pods[f"{NAME}-worker-1"], **end)
    wanted = EVERYTHING - {f"{NAME}-worker-1"} | {f"{NAME}-worker-1-1"}
    now = await api.until(Kind.POD, namespace, phases("Running", wanted))
    assert now[f"{NAME}-worker-1-1"]["metadata"]["labels"]["reknit.dev/replica"] == "1"
    status = (await job_of(api, namespace)).status
    assert status.failures == {expected: 1}
    assert len(status.failure_times) == charged


async def test_a_pod_on_a_lost_node_is_not_waited_for(api, namespace, node, pods):
    node.is_lost = True
    await api.delete(Kind.POD, namespace, f"{NAME}-worker-0")
    fresh = f"{NAME}-worker-0-1"
    now = await api.until(Kind.POD, namespace, lambda pods: fresh in pods)
    assert "deletionTimestamp" in now[f"{NAME}-worker-0"]["metadata"]


async def test_an_image_that_cannot_be_is_the_end(api, namespace, operator):
    node = FakeNode(api, namespace, starts=lambda _pod: False)
    async with node.running():
        await api.create(manifest(namespace))
        pods = await api.until(Kind.POD, namespace, phases("Pending", EVERYTHING))
        await node.wait(pods[f"{NAME}-worker-0"], "InvalidImageName")
        job = (await api.until(Kind.JOB, namespace, holds("Failed")))[NAME]
    failed = condition(job, "Failed")
    assert failed["reason"] == "Configuration"
    assert "InvalidImageName" in failed["message"]


async def test_a_pod_that_waits_says_why(api, namespace, operator):
    node = FakeNode(api, namespace, starts=lambda _pod: False)
    async with node.running():
        await api.create(manifest(namespace))
        pods = await api.until(Kind.POD, namespace, phases("Pending", EVERYTHING))
        for name in WORKERS:
            await node.wait(pods[name], "ImagePullBackOff")
        jobs = await api.until(
            Kind.JOB,
            namespace,
            lambda jobs: (
                "ImagePullBackOff" in condition(jobs.get(NAME, {}), "PodsReady").get("message", "")
            ),
        )
    assert condition(jobs[NAME], "PodsReady")["status"] == "False"


async def test_suspend_and_resume(api, namespace, node, pods):
    await api.patch(Kind.JOB, namespace, NAME, {"spec": {"suspend": True}})
    await api.until(Kind.JOB, namespace, holds("Suspended"))
    assert await api.list(Kind.POD, namespace) == []
    assert await api.list(Kind.DISRUPTION_BUDGET, namespace) == []
    changes = {"spec": {"suspend": False, "workers": {"replicas": 1}}}
    with pytest.raises(RefusalError):
        await api.patch(Kind.JOB, namespace, NAME, {"spec": {"suspend": False, "seed": -1}})
    await api.patch(Kind.JOB, namespace, NAME, changes)
    again = {f"{NAME}-worker-0-1", f"{NAME}-coordinator-2"}
    await api.until(Kind.POD, namespace, phases("Running", again))
    budgets = await api.until(Kind.DISRUPTION_BUDGET, namespace, lambda found: len(found) == 1)
    assert budgets[f"{NAME}-workers"]["spec"]["minAvailable"] == 0


async def test_a_killed_operator_loses_and_doubles_nothing(
    server, api, namespace, tmp_path, operator, node, pods
):
    await node.end(pods[f"{NAME}-worker-1"], 137)
    await operator.send(signal.SIGKILL)
    options = [f"--namespace={namespace}", "--coordinator-client=sys", "--disruption-budgets"]
    successor = OperatorProcess(server, tmp_path, options)
    await successor.start()
    try:
        wanted = EVERYTHING - {f"{NAME}-worker-1"} | {f"{NAME}-worker-1-1"}
        await api.until(Kind.POD, namespace, phases("Running", wanted))
        status = (await job_of(api, namespace)).status
        assert status.failures == {ExitClass.KILLED: 1}
        assert status.replacements == {"worker-1": 1}
        assert (status.attempts, status.membership.incarnation) == (1, 1)
    finally:
        await successor.end()


async def test_looking_again_writes_nothing(api, namespace, operator, pods):
    await api.until(Kind.JOB, namespace, holds("PodsReady"))
    await quiet(operator)
    before = await versions(api, namespace)
    passes = 'reknit_operator_reconciles_total{result="success"}'
    done = await operator.figure(passes)
    labels = {"metadata": {"labels": {"look": "here"}}}
    changed = await api.patch(Kind.JOB, namespace, NAME, labels)

    async def has_looked():
        return await operator.figure(passes) > done

    await eventually(has_looked)
    await quiet(operator)
    before[Kind.JOB, NAME] = changed["metadata"]["resourceVersion"]
    assert await versions(api, namespace) == before


async def quiet(operator):
    """Waits until no job waits for a pass."""

    async def is_quiet():
        return await operator.figure("reknit_operator_queue_depth") == 0

    await eventually(is_quiet)


async def versions(api, namespace):
    return {
        (kind, item["metadata"]["name"]): item["metadata"]["resourceVersion"]
        for kind in Kind
        for item in await api.list(kind, namespace)
    }


async def test_a_name_that_is_taken_is_told_and_tried_again(api, namespace, operator, node):
    security = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    container = {
        "name": "other",
        "image": "other",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    foreign = {
        "kind": "Pod",
        "metadata": {"name": f"{NAME}-worker-0", "namespace": namespace},
        "spec": {"securityContext": security, "containers": [container]},
    }
    await api.create(foreign)
    await api.create(manifest(namespace))
    sentence = f"Pod {NAME}-worker-0 exists and does not belong to this job"

    async def is_told():
        return ("ReconcileFailed", sentence) in await told(api, namespace)

    await eventually(is_told)
    await api.delete(Kind.POD, namespace, f"{NAME}-worker-0", grace=0)
    await api.until(Kind.POD, namespace, phases("Running", EVERYTHING))


async def test_a_finished_job_is_deleted_in_time(api, namespace, operator, node):
    await api.create(manifest(namespace, spec__ttlSecondsAfterFinished=0))
    pods = await api.until(Kind.POD, namespace, phases("Running", EVERYTHING))
    for name in WORKERS:
        await node.conclude(pods[name], ExitClass.SUCCEEDED)
    seen = []

    def gone(jobs):
        seen.extend(jobs)
        return bool(seen) and not jobs

    await api.until(Kind.JOB, namespace, gone)


async def test_a_restarted_api_server_is_found_again(server, api, namespace, operator):
    async with FakeNode(api, namespace).running():
        await api.create(manifest(namespace))
        await api.until(Kind.POD, namespace, phases("Running", EVERYTHING))
    server.stop_server()
    server.start_server()
    async with FakeNode(api, namespace).running():
        await api.delete(Kind.POD, namespace, f"{NAME}-worker-0")
        wanted = EVERYTHING - {f"{NAME}-worker-0"} | {f"{NAME}-worker-0-1"}
        await api.until(Kind.POD, namespace, phases("Running", wanted))
    assert await operator.health() == 200


async def test_what_was_deleted_behind_its_back_is_missed(server, api, namespace, operator):
    """After a restart the API server knows no old changes, and a list shows no deletions."""
    async with FakeNode(api, namespace).running():
        await api.create(manifest(namespace))
        await api.until(Kind.POD, namespace, phases("Running", EVERYTHING))
    os.kill(operator.pid, signal.SIGSTOP)
    server.stop_server()
    server.start_server()
    await api.delete(Kind.POD, namespace, f"{NAME}-worker-0", grace=0)
    os.kill(operator.pid, signal.SIGCONT)
    async with FakeNode(api, namespace).running():
        await api.until(Kind.POD, namespace, phases("Running", EVERYTHING))
    assert await operator.figure("reknit_operator_relists_total") > 0


async def test_it_stops_when_told_and_shows_no_secret(api, namespace, operator, pods):
    (secret,) = await api.list(Kind.SECRET, namespace)
    assert await operator.send(signal.SIGTERM) == 0
    log = operator.log.read_text()
    assert "Stopped" in log
    assert secret["data"]["token"] not in log
    assert not re.search(r"Traceback|token-of-operator", log)


async def test_metrics_tell_what_it_does(api, namespace, operator, pods):
    await api.until(Kind.JOB, namespace, holds("PodsReady"))
    await quiet(operator)
    assert await operator.figure('reknit_operator_jobs{state="PodsReady"}') == 1
    created = 'reknit_operator_api_requests_total{code="201",kind="Pod",verb="POST"}'
    assert await operator.figure(created) == 3
    assert await operator.figure("reknit_operator_leader") == 1


async def grant(api, namespace, role, user):
    """Gives a user a role of the chart in a namespace."""
    base = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}"
    role["metadata"]["namespace"] = namespace
    await api.call("POST", f"{base}/roles", role)
    group = "rbac.authorization.k8s.io"
    name = role["metadata"]["name"]
    binding = {
        "metadata": {"name": name},
        "roleRef": {"apiGroup": group, "kind": "Role", "name": name},
        "subjects": [{"apiGroup": group, "kind": "User", "name": user}],
    }
    await api.call("POST", f"{base}/rolebindings", binding)


def role_of(*settings):
    return next(item for item in render(*settings) if item["kind"] == "Role")


async def test_in_one_namespace_a_role_is_enough(server, api, namespace, tmp_path, node):
    await grant(api, namespace, role_of(f"namespaces={{{namespace}}}"), "outsider")
    options = [f"--namespace={namespace}", "--coordinator-client=sys", "--disruption-budgets"]
    operator = OperatorProcess(server, tmp_path, options, "outsider")
    await operator.start()
    try:
        await api.create(manifest(namespace))
        pods = await api.until(Kind.POD, namespace, phases("Running", EVERYTHING))
        for name in WORKERS:
            await node.conclude(pods[name], ExitClass.SUCCEEDED)
        await api.until(Kind.JOB, namespace, holds("Succeeded"))
    finally:
        await operator.end()


async def test_without_permission_it_ends_and_says_why(server, tmp_path):
    operator = OperatorProcess(server, tmp_path, ["--all-namespaces"], "outsider")
    await operator.launch()
    assert await operator.wait() == 1
    refusal = 'User "outsider" cannot list resource "distributedtrainingjobs"'
    assert refusal in operator.log.read_text()


async def test_the_whole_cluster_is_served(server, api, namespace, tmp_path, node):
    operator = OperatorProcess(server, tmp_path, ["--all-namespaces"])
    await operator.start()
    try:
        await api.create(manifest(namespace))
        await api.until(Kind.POD, namespace, phases("Running", EVERYTHING))
    finally:
        await operator.end()


async def test_of_two_operators_one_acts_and_the_other_follows(server, api, namespace, tmp_path):
    await grant(api, namespace, role_of("leaderElection.enabled=true"), "operator")
    options = [f"--namespace={namespace}", f"--lease={namespace}/reknit"]
    operators = [OperatorProcess(server, tmp_path, options) for _ in range(2)]
    try:
        for operator in operators:
            await operator.start()
            await eventually(operators[0].leads)
        assert not await operators[1].leads()
        assert await operators[0].send(signal.SIGTERM) == 0
        await eventually(operators[1].leads)
        await api.create(manifest(namespace))
        await api.until(Kind.POD, namespace, lambda pods: set(pods) == EVERYTHING)
    finally:
        for operator in operators:
            await operator.end()
