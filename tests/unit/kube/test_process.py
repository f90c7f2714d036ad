"""What the process shows and how it is called."""

import asyncio

import aiohttp
import pytest

from apiserver import free_ports
from reknit.errors import ConfigurationError
from reknit_operator.constants import Kind
from reknit_operator.kube.answers import RefusedError
from reknit_operator.kube.freshness import Freshness
from reknit_operator.kube.metrics import OperatorMetrics, state_of
from reknit_operator.kube.operator import Operator
from reknit_operator.kube.options import parse_options
from reknit_operator.kube.server import HealthServer
from reknit_operator.reconcile.cache import Cache
from reknit_operator.reconcile.queue import KeyedQueue


def test_a_place_must_be_given(capsys):
    with pytest.raises(SystemExit):
        parse_options([])
    assert "--all-namespaces" in capsys.readouterr().err


def test_options():
    places = ["--namespace", "a", "--namespace", "b", "--namespace", "a"]
    others = ["--image", "r:2", "--coordinator-client", "sys", "--lease", "sys/reknit"]
    options = parse_options([*places, *others, "--disruption-budgets"])
    assert options.namespaces == ("a", "b")
    assert options.lease == ("sys", "reknit")
    assert (options.build.image, options.build.coordinator_clients) == ("r:2", ("sys",))
    assert options.build.disruption_budgets
    assert parse_options(["--all-namespaces"]).namespaces is None
    assert parse_options(["--all-namespaces"]).identity != options.identity


@pytest.mark.parametrize(
    "wrong",
    [["--lease", "reknit"], ["--lease", "a/b/c"], ["--lease", "/b"], ["--port", "70000"]],
)
def test_wrong_options_are_refused(wrong, capsys):
    with pytest.raises(SystemExit):
        parse_options(["--all-namespaces", *wrong])
    assert wrong[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("conditions", "state"),
    [
        ((), "Pending"),
        ((("Running", "False"), ("PodsReady", "True")), "PodsReady"),
        ((("Succeeded", "Unknown"), ("Running", "True"), ("PodsReady", "True")), "Running"),
        ((("Failed", "True"),), "Failed"),
    ],
)
def test_state_of_a_job(conditions, state):
    found = [{"type": kind, "status": status} for kind, status in conditions]
    assert state_of({"status": {"conditions": found}}) == state


@pytest.fixture
async def metrics(make_item):
    cache, queue = Cache(), KeyedQueue()
    cache.put(make_item("a"))
    queue.add(("default", "a"))
    return OperatorMetrics(cache, queue, Freshness({}, lambda _kind: None), lambda: True)


@pytest.fixture
def make_item():
    def make(name):
        metadata = {"name": name, "namespace": "default", "uid": name, "resourceVersion": "1"}
        return {"kind": str(Kind.JOB), "metadata": metadata}

    return make


async def test_metrics(metrics):
    metrics.passed("success", 0.02)
    metrics.requested("GET", "Pod", 200, 0.01)
    lines = metrics.text().decode().splitlines()
    for line in (
        'reknit_operator_jobs{state="Pending"} 1.0',
        'reknit_operator_jobs{state="Running"} 0.0',
        "reknit_operator_queue_depth 1.0",
        "reknit_operator_leader 1.0",
        "reknit_operator_stale_watches 0.0",
        'reknit_operator_reconciles_total{result="success"} 1.0',
        'reknit_operator_api_requests_total{code="200",kind="Pod",verb="GET"} 1.0',
    ):
        assert line in lines


def seen(running, **status):
    metadata = {"uid": "u", "creationTimestamp": "2026-01-01T12:00:00Z"}
    condition = {"type": "Running", "status": running, "lastTransitionTime": "2026-01-01T12:00:07Z"}
    return {"metadata": metadata, "status": {"conditions": [condition], **status}}


@pytest.mark.parametrize(
    ("jobs", "count", "total"),
    [
        ((seen("False"), seen("False"), seen("True"), seen("True")), 1, 7),
        ((seen("False"), seen("True"), seen("False", attempts=2), seen("True", attempts=2)), 1, 7),
        ((seen("True"),), 0, 0),
        ((seen("False"), seen("False", completionTime="2026-01-01T12:00:09Z")), 0, 0),
        ((seen("False"), None, seen("True")), 0, 0),
    ],
)
async def test_the_time_until_a_job_trains(metrics, jobs, count, total):
    for job in jobs:
        if job is None:
            metrics.forgot("u")
        else:
            metrics.saw(job)
    lines = metrics.text().decode().splitlines()
    assert f"reknit_operator_start_seconds_count {count:.1f}" in lines
    assert f"reknit_operator_start_seconds_sum {total:.1f}" in lines


async def test_the_age_of_the_queue_is_that_of_its_first_key():
    queue, loop = KeyedQueue(), asyncio.get_running_loop()
    assert queue.age(loop.time()) == 0
    before = loop.time()
    queue.add("a")
    after = loop.time()
    assert 10 <= queue.age(after + 10) <= 10 + after - before
    queue.done(await queue.get())
    assert queue.age(loop.time()) == 0


@pytest.fixture
def options():
    (port,) = free_ports(1)
    return parse_options(["--namespace", "a", "--port", str(port)])


async def test_a_cluster_that_does_not_know_jobs_is_told_so(scripted, access, options):
    scripted.will(404, {"message": "not found"})
    with pytest.raises(ConfigurationError, match="install the chart"):
        await Operator(access, options).run()


async def test_a_permission_that_is_missing_is_named(scripted, access, options):
    scripted.will(403, {"message": "jobs is forbidden"})
    with pytest.raises(RefusedError, match="jobs is forbidden"):
        await Operator(access, options).run()
    with pytest.raises(aiohttp.ClientConnectionError):
        await fetch(options.port, "/healthz")


async def fetch(port, path):
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}{path}") as response,
    ):
        return response.status, await response.text()


async def test_health_and_metrics_are_served():
    stale = []
    server = HealthServer(lambda: stale, lambda: b"figure 1\n")
    (port,) = free_ports(1)
    await server.start(port)
    try:
        assert await fetch(port, "/healthz") == (200, "ok\n")
        assert await fetch(port, "/metrics") == (200, "figure 1\n")
        stale.append("/api/v1/pods")
        assert await fetch(port, "/healthz") == (
            503,
            "The watch of /api/v1/pods has fallen silent.\n",
        )
        with pytest.raises(ConfigurationError, match="choose another one with --port"):
            await HealthServer(list, bytes).start(port)
    finally:
        await server.close()
