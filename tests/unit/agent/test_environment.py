import json
from typing import Any

import pytest

from reknit.agent.environment import command_environment
from reknit.protocol.base import Endpoint, Generation
from reknit.protocol.ranks import Assign
from reknit.protocol.settings import Framework, JobSettings

HOSTS = ("10.0.0.1", "10.0.0.1", "10.0.0.2", "10.0.0.2")
COMMON = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "GROUP_RANK": "1",
}


def environment(framework: Framework, *, host: str = "10.0.0.1", **assigned: Any) -> dict[str, str]:
    settings = JobSettings(
        name="job", uid="u-1", command=("python", "train.py"), framework=framework
    )
    values: dict[str, Any] = {
        "generation": Generation(incarnation=2, counter=3),
        "rank": 3,
        "world_size": 4,
        "local_rank": 1,
        "local_world_size": 2,
        "group_rank": 1,
        "store": Endpoint(host=host, port=15000),
        "hosts": HOSTS if ":" not in host else ("fd00::1",) * 4,
    }
    return command_environment(settings, Assign(**(values | assigned)))


@pytest.mark.parametrize(
    ("framework", "expected"),
    [
        (
            Framework.PYTORCH,
            {
                "MASTER_ADDR": "10.0.0.1",
                "MASTER_PORT": "15000",
                "GROUP_WORLD_SIZE": "2",
                "ROLE_NAME": "default",
                "ROLE_RANK": "3",
                "ROLE_WORLD_SIZE": "4",
                "TORCHELASTIC_RUN_ID": "u-1",
                "TORCHELASTIC_RESTART_COUNT": "2",
                "TORCHELASTIC_MAX_RESTARTS": "10",
                "TORCHELASTIC_USE_AGENT_STORE": "False",
            },
        ),
        (
            Framework.HOROVOD,
            {
                "HOROVOD_RANK": "3",
                "HOROVOD_SIZE": "4",
                "HOROVOD_LOCAL_RANK": "1",
                "HOROVOD_LOCAL_SIZE": "2",
                "HOROVOD_CROSS_RANK": "1",
                "HOROVOD_CROSS_SIZE": "2",
                "HOROVOD_HOSTNAME": "10.0.0.2",
                "HOROVOD_CONTROLLER": "gloo",
                "HOROVOD_CPU_OPERATIONS": "gloo",
                "HOROVOD_GLOO_RENDEZVOUS_ADDR": "10.0.0.1",
                "HOROVOD_GLOO_RENDEZVOUS_PORT": "15000",
            },
        ),
        (
            Framework.MXNET,
            {
                "DMLC_ROLE": "worker",
                "DMLC_WORKER_ID": "3",
                "DMLC_NUM_WORKER": "4",
                "DMLC_NUM_SERVER": "4",
                "DMLC_PS_ROOT_URI": "10.0.0.1",
                "DMLC_PS_ROOT_PORT": "15000",
            },
        ),
        (
            Framework.JAX,
            {
                "JAX_COORDINATOR_ADDRESS": "10.0.0.1:15000",
                "JAX_NUM_PROCESSES": "4",
                "JAX_PROCESS_ID": "3",
                "JAX_LOCAL_DEVICE_IDS": "1",
            },
        ),
    ],
)
def test_variables(framework: Framework, expected: dict[str, str]) -> None:
    assert environment(framework) == COMMON | expected


def test_tensorflow_finds_every_worker() -> None:
    variables = environment(Framework.TENSORFLOW)
    config = json.loads(variables.pop("TF_CONFIG"))
    assert variables == COMMON
    assert config == {
        "cluster": {
            "worker": ["10.0.0.1:15000", "10.0.0.1:15001", "10.0.0.2:15002", "10.0.0.2:15003"]
        },
        "task": {"type": "worker", "index": 3},
        "environment": "cloud",
    }


def test_a_lone_jax_process_keeps_all_devices() -> None:
    variables = environment(Framework.JAX, local_rank=0, local_world_size=1)
    assert "JAX_LOCAL_DEVICE_IDS" not in variables


def test_addresses_of_version_6_are_put_in_brackets() -> None:
    assert environment(Framework.JAX, host="fd00::1")["JAX_COORDINATOR_ADDRESS"] == (
        "[fd00::1]:15000"
    )
    workers = json.loads(environment(Framework.TENSORFLOW, host="fd00::1")["TF_CONFIG"])
    assert workers["cluster"]["worker"][0] == "[fd00::1]:15000"
    assert environment(Framework.PYTORCH, host="fd00::1")["MASTER_ADDR"] == "fd00::1"


@pytest.mark.parametrize(("counter", "restarts"), [(0, "0"), (1, "0"), (2, "1"), (9, "8")])
def test_the_restart_count_is_that_of_the_generation(counter: int, restarts: str) -> None:
    generation = Generation(incarnation=1, counter=counter)
    variables = environment(Framework.PYTORCH, generation=generation)
    assert variables["TORCHELASTIC_RESTART_COUNT"] == restarts
