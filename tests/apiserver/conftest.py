"""A real API server for all tests of this folder; each test has a namespace of its own."""

import asyncio
import contextlib
import itertools
from pathlib import Path

import pytest
import yaml

from apiserver import api_server
from chart import render
from kubeapi import Api, RefusalError
from operatorprocess import OperatorProcess
from reknit_operator.api.crd import FILE_NAME

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
ROOT = Path(__file__).parents[2]
NUMBERS = itertools.count(1)


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    users = {"operator": (), "outsider": ()}
    with api_server(tmp_path_factory.mktemp("apiserver"), users) as running:
        asyncio.run(prepare(running))
        yield running


async def prepare(server):
    """Installs the definition, and gives the operator what the chart gives it and no more."""
    api = Api(server)
    try:
        await api.call("POST", CRDS, yaml.safe_load((ROOT / "crds" / FILE_NAME).read_text()))
        roles = [item for item in render() if item["kind"] == "ClusterRole"]
        for role in roles:
            await api.call("POST", f"{RBAC}/clusterroles", role)
        user = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "operator"}
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole"}
        binding = {
            "metadata": {"name": "operator"},
            "roleRef": {**reference, "name": "reknit"},
            "subjects": [user],
        }
        await api.call("POST", f"{RBAC}/clusterrolebindings", binding)
        async with asyncio.timeout(30):
            while True:
                with contextlib.suppress(RefusalError):
                    await api.call("GET", "/apis/reknit.dev/v1alpha1/distributedtrainingjobs")
                    return
                await asyncio.sleep(0.05)
    finally:
        await api.close()


@pytest.fixture
async def api(server):
    client = Api(server)
    yield client
    await client.close()


@pytest.fixture
async def namespace(api):
    """A namespace that takes no pod outside of the restricted standard."""
    name = f"test-{next(NUMBERS)}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    metadata = {"name": name, "labels": labels}
    await api.call("POST", "/api/v1/namespaces", {"metadata": metadata})
    return name


@pytest.fixture
async def operator(server, namespace, tmp_path):
    """The operator's process, for this test's namespace and with the chart's permissions."""
    process = OperatorProcess(server, tmp_path, [f"--namespace={namespace}"])
    await process.start()
    yield process
    await process.end()
