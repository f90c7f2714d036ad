"""What a container finds in its environment."""

from pathlib import Path

import pytest

from reknit_operator.build.options import BuildOptions
from reknit_operator.build.secret import build_secret
from reknit_operator.build.worker import build_worker
from reknit_operator.local.environment import HostEnvironment, container_environment
from reknit_operator.local.network import Network

LOG = Path("/tmp/log")


@pytest.fixture
def pod(make_job):
    pod = build_worker(make_job(), BuildOptions(), 1, attempt=1, replacements=0)
    pod["spec"]["nodeName"] = "here"
    pod["status"] = {"podIP": "127.3.1.1"}
    return pod


@pytest.fixture
def secrets(make_job):
    return {"gpt-token": build_secret(make_job(), "tok")}


def host(variables=None, python_path=()):
    return HostEnvironment("session", "127.3.0.1", variables or {}, python_path)


def test_references_are_resolved(pod, secrets):
    variables = container_environment(pod, host(), secrets=secrets, termination_log=LOG)
    assert variables["REKNIT_TOKEN"] == "tok"
    assert variables["REKNIT_POD_NAME"] == "gpt-worker-1"
    assert variables["REKNIT_POD_IP"] == "127.3.1.1"
    assert variables["REKNIT_NODE_NAME"] == "here"
    assert variables["REKNIT_COORDINATOR"] == "127.3.0.1:7070"
    assert variables["REKNIT_TERMINATION_LOG"] == str(LOG)
    assert variables["REKNIT_SESSION"] == "session"
    assert variables["GLOO_SOCKET_IFNAME"] == "lo"


def test_a_missing_secret_is_told(pod):
    with pytest.raises(KeyError):
        container_environment(pod, host(), secrets={}, termination_log=LOG)


def test_the_hosts_variables_come_through_but_do_not_win(pod, secrets):
    mine = {"HOME": "/me", "REKNIT_REPLICA": "9", "REKNIT_SESSION": "x", "OMP_NUM_THREADS": "3"}
    variables = container_environment(pod, host(mine), secrets=secrets, termination_log=LOG)
    assert (variables["HOME"], variables["REKNIT_REPLICA"]) == ("/me", "1")
    assert (variables["REKNIT_SESSION"], variables["OMP_NUM_THREADS"]) == ("session", "3")


def test_threads_are_few_unless_asked_for():
    assert host().base()["OMP_NUM_THREADS"] == "1"


def test_the_manifests_folder_comes_first_among_modules():
    base = host({"PYTHONPATH": "/theirs"}, [Path("/a"), Path("/b")]).base()
    assert base["PYTHONPATH"] == "/a:/b:/theirs"
    assert "PYTHONPATH" not in host().base()


def test_networks_do_not_overlap():
    networks = [Network() for _ in range(3)]
    try:
        addresses = [network.coordinator for network in networks]
        addresses += [network.take() for network in networks for _ in range(600)]
        assert len(set(addresses)) == len(addresses)
        assert all(0 <= int(part) <= 255 for address in addresses for part in address.split("."))
        assert networks[0].coordinator == networks[0].coordinator
    finally:
        for network in networks:
            network.close()
