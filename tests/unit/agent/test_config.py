from pathlib import Path

import pytest

from reknit.agent.config import DEFAULT_TARGET, read_config
from reknit.agent.launcher import forkserver_environment
from reknit.agent.warmup import preloaded_modules
from reknit.errors import ConfigurationError
from reknit.layout import Sharding
from reknit.protocol.base import Endpoint
from reknit.protocol.settings import JobSettings

SETTINGS = JobSettings(name="job", function="m:train", processes_per_worker=2)
POD = {
    "REKNIT_JOB": SETTINGS.model_dump_json(),
    "REKNIT_TOKEN": "secret-token",
    "REKNIT_COORDINATOR": "job-coordinator.ns:7070",
    "REKNIT_POD_NAME": "job-worker-1",
    "REKNIT_POD_IP": "10.0.0.2",
    "REKNIT_NODE_NAME": "node-3",
    "REKNIT_ROLE": "worker",
    "REKNIT_REPLICA": "1",
}


def test_a_pods_environment_is_read() -> None:
    config = read_config(POD)
    assert config.settings == SETTINGS
    assert config.coordinator == Endpoint(host="job-coordinator.ns", port=7070)
    assert (config.name, config.host, config.node) == ("job-worker-1", "10.0.0.2", "node-3")
    assert (config.role, config.replica, config.token) == ("worker", 1, "secret-token")
    assert config.termination_log == Path("/dev/termination-log")
    assert config.target == DEFAULT_TARGET


def test_the_token_is_not_shown() -> None:
    assert "secret-token" not in repr(read_config(POD))


@pytest.mark.parametrize("address", ["[fd00::1]:7070", "fd00::1:7070"])
def test_addresses_of_version_6(address: str) -> None:
    config = read_config(POD | {"REKNIT_COORDINATOR": address})
    assert config.coordinator == Endpoint(host="fd00::1", port=7070)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"REKNIT_COORDINATOR": "host"}, "REKNIT_COORDINATOR must be host:port, not 'host'"),
        ({"REKNIT_COORDINATOR": ":1"}, "REKNIT_COORDINATOR must be host:port, not ':1'"),
        ({"REKNIT_COORDINATOR": "h:x"}, "REKNIT_COORDINATOR needs a whole number, not 'x'"),
        ({"REKNIT_REPLICA": "-1"}, "REKNIT_REPLICA needs a whole number, not '-1'"),
        ({"REKNIT_ROLE": "king"}, "an agent's REKNIT_ROLE is worker, spare or server, not king"),
        ({"REKNIT_JOB": '{"name": 1}'}, "REKNIT_JOB cannot be read: Input should be a valid"),
        ({"REKNIT_JOB": "{"}, "REKNIT_JOB cannot be read: Invalid JSON"),
    ],
)
def test_nonsense_is_refused(change: dict[str, str], sentence: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_config(POD | change)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    "name", ["REKNIT_JOB", "REKNIT_TOKEN", "REKNIT_POD_IP", "REKNIT_POD_NAME", "REKNIT_REPLICA"]
)
def test_what_is_missing_is_named(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"lacks {name}"):
        read_config({key: value for key, value in POD.items() if key != name})


def test_processes_inherit_all_but_the_token() -> None:
    inherited = forkserver_environment({"PATH": "/bin", "REKNIT_TOKEN": "secret"}, SETTINGS)
    assert inherited["PATH"] == "/bin"
    assert "REKNIT_TOKEN" not in inherited


@pytest.mark.parametrize(
    ("num_processes", "inherited", "expected"),
    [(1, {}, None), (2, {}, "1"), (2, {"OMP_NUM_THREADS": "8"}, "8")],
)
def test_ranks_that_share_a_pod_get_one_thread_each_by_default(
    num_processes: int, inherited: dict[str, str], expected: str | None
) -> None:
    settings = JobSettings(name="job", processes_per_worker=num_processes)
    environment = forkserver_environment(inherited, settings)
    assert environment.get("OMP_NUM_THREADS") == expected


@pytest.mark.parametrize(("sharding", "expected"), [(Sharding.NONE, False), (Sharding.ZERO1, True)])
def test_deepspeed_is_preloaded_where_it_is_used(sharding: Sharding, expected: bool) -> None:
    modules = preloaded_modules(JobSettings(name="job", sharding=sharding), DEFAULT_TARGET)
    assert ("reknit.strategies.zero" in modules) is expected
    assert "torch._dynamo" in modules
    assert modules[-1] == "reknit.rank.main"
