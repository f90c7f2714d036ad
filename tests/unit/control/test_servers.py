"""Parameter servers among a job's pods."""

from dataclasses import replace
from datetime import timedelta

from plans import created
from reknit.parameter_server.table import Consistency, Mode
from reknit.protocol.outcome import ExitClass
from reknit.protocol.settings import JobSettings, ServerSettings
from reknit_operator.build.disruption import build_disruption_budget
from reknit_operator.build.options import BuildOptions
from reknit_operator.build.settings import job_settings
from reknit_operator.build.worker import build_worker
from reknit_operator.constants import Role
from reknit_operator.reconcile.decide import decide
from reknit_operator.reconcile.observed import Observed, Pod, PodPhase

SERVERS = {"replicas": 2, "resources": {"requests": {"memory": "4Gi"}}}


def test_servers_are_created_with_everything_else(make_job, now):
    plan = decide(Observed(job=make_job(parameterServers=SERVERS), new_token="secret"), now)
    assert created(plan)[-2:] == ["gpt-server-0", "gpt-server-1"]
    assert plan.status is not None
    roles = {status.role: status.desired for status in plan.status.replica_statuses}
    assert roles == {"coordinator": 1, "worker": 2, "server": 2}


def test_a_server_differs_from_a_worker_by_role_and_resources(make_job):
    job = make_job(
        parameterServers=SERVERS, workers={"replicas": 2, "resources": {"limits": {"gpu": 1}}}
    )
    options = BuildOptions(image="image")
    pods = [
        build_worker(job, options, 1, attempt=1, replacements=0, role=role)
        for role in (Role.SERVER, Role.WORKER)
    ]
    server, worker = (pod["spec"]["containers"][0] for pod in pods)
    assert server["resources"] == {"requests": {"memory": "4Gi"}, "limits": {}}
    assert pods[0]["spec"]["hostname"] == "server-1"
    assert pods[0]["spec"]["restartPolicy"] == "Never"
    assert {e["name"]: e.get("value") for e in server["env"]}["REKNIT_ROLE"] == "server"
    assert {k: v for k, v in server.items() if k not in ("resources", "env")} == {
        k: v for k, v in worker.items() if k not in ("resources", "env")
    }


def server(make_worker, replica: int, **fields) -> Pod:
    pod = make_worker(replica, **fields)
    return replace(pod, role="server", ref=replace(pod.ref, name=f"gpt-server-{replica}"))


def test_a_lost_server_is_counted_and_replaced(settled, make_job, make_worker, now):
    job = make_job(parameterServers=SERVERS)
    lost = server(make_worker, 1, phase=PodPhase.FAILED, exit_code=137)
    later = now + timedelta(seconds=5)
    plan = decide(settled(lost, server(make_worker, 0), job=job), later)
    assert created(plan) == ["gpt-server-1-1"]
    assert plan.status is not None
    assert plan.status.failures == {ExitClass.KILLED: 1}
    assert plan.status.replacements == {"server-1": 1}


def test_a_drain_takes_one_worker_or_server_at_a_time(make_job):
    spec = build_disruption_budget(make_job(parameterServers=SERVERS))["spec"]
    [roles] = spec["selector"]["matchExpressions"]
    assert spec["minAvailable"] == 3
    assert roles["values"] == ["worker", "spare", "server"]


def test_everyone_is_told_of_the_servers(make_job):
    servers = {"replicas": 3, "copies": 1, "compression": "BF16"}
    settings = job_settings(make_job(parameterServers=servers), BuildOptions())
    assert settings.servers == ServerSettings(
        num_servers=3, copies=1, mode=Mode(Consistency.SYNCHRONOUS), compression="BF16"
    )
    assert JobSettings.model_validate_json(settings.model_dump_json()) == settings
    assert job_settings(make_job(), BuildOptions()).servers is None
