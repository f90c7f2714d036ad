"""A real API server for all tests of this folder; each test has a namespace of its own."""

import asyncio
import itertools

import pytest

from apiserver import api_server
from installation import USER, install
from kubeapi import Api
from operatorprocess import OperatorProcess

NUMBERS = itertools.count(1)


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    users = {USER: (), "outsider": ()}
    with api_server(tmp_path_factory.mktemp("apiserver"), users) as running:
        asyncio.run(prepare(running))
        yield running


async def prepare(server):
    api = Api(server)
    try:
        await install(api)
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
