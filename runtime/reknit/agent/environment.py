"""The environment in which a command finds its place, as its framework expects it: pure."""

import json

from reknit.protocol.ranks import Assign
from reknit.protocol.settings import Framework, JobSettings


def command_environment(settings: JobSettings, assign: Assign) -> dict[str, str]:
    """The variables of one rank of a command.

    Args:
        settings: the job.
        assign: the rank's place.

    The store's address is the rendezvous of the generation: rank 0 listens there, but under Horovod
    its agent does. TensorFlow's rank r listens r ports above it.
    """
    common = {
        "RANK": assign.rank,
        "WORLD_SIZE": assign.world_size,
        "LOCAL_RANK": assign.local_rank,
        "LOCAL_WORLD_SIZE": assign.local_world_size,
        "GROUP_RANK": assign.group_rank,
    }
    build = {
        Framework.PYTORCH: _torchrun,
        Framework.TENSORFLOW: _tensorflow,
        Framework.HOROVOD: _horovod,
        Framework.MXNET: _mxnet,
        Framework.JAX: _jax,
    }[settings.framework]
    variables = common | build(settings, assign)
    return {name: str(value) for name, value in variables.items()}


def _torchrun(settings: JobSettings, assign: Assign) -> dict[str, str | int]:
    """As `torchrun` sets it; the restart count is that of the generation, the same on all ranks."""
    return {
        "MASTER_ADDR": assign.store.host,
        "MASTER_PORT": assign.store.port,
        "GROUP_WORLD_SIZE": _num_pods(assign),
        "ROLE_NAME": "default",
        "ROLE_RANK": assign.rank,
        "ROLE_WORLD_SIZE": assign.world_size,
        "TORCHELASTIC_RUN_ID": settings.uid or settings.name,
        "TORCHELASTIC_RESTART_COUNT": max(0, assign.generation.counter - 1),
        "TORCHELASTIC_MAX_RESTARTS": settings.max_process_failures,
        "TORCHELASTIC_USE_AGENT_STORE": "False",
    }


def _tensorflow(_settings: JobSettings, assign: Assign) -> dict[str, str | int]:
    workers = [
        f"{_url_host(host)}:{assign.store.port + rank}" for rank, host in enumerate(assign.hosts)
    ]
    cluster = {
        "cluster": {"worker": workers},
        "task": {"type": "worker", "index": assign.rank},
        "environment": "cloud",
    }
    return {"TF_CONFIG": json.dumps(cluster)}


def _horovod(_settings: JobSettings, assign: Assign) -> dict[str, str | int]:
    """As `horovodrun` sets it with its Gloo controller; every pod runs the same number of ranks."""
    return {
        "HOROVOD_RANK": assign.rank,
        "HOROVOD_SIZE": assign.world_size,
        "HOROVOD_LOCAL_RANK": assign.local_rank,
        "HOROVOD_LOCAL_SIZE": assign.local_world_size,
        "HOROVOD_CROSS_RANK": assign.group_rank,
        "HOROVOD_CROSS_SIZE": _num_pods(assign),
        "HOROVOD_HOSTNAME": assign.hosts[assign.rank],
        "HOROVOD_CONTROLLER": "gloo",
        "HOROVOD_CPU_OPERATIONS": "gloo",
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": assign.store.host,
        "HOROVOD_GLOO_RENDEZVOUS_PORT": assign.store.port,
    }


def _mxnet(_settings: JobSettings, assign: Assign) -> dict[str, str | int]:
    """Every rank is a worker; a program that wants servers and a scheduler starts them itself."""
    return {
        "DMLC_ROLE": "worker",
        "DMLC_WORKER_ID": assign.rank,
        "DMLC_NUM_WORKER": assign.world_size,
        "DMLC_NUM_SERVER": assign.world_size,
        "DMLC_PS_ROOT_URI": assign.store.host,
        "DMLC_PS_ROOT_PORT": assign.store.port,
    }


def _jax(_settings: JobSettings, assign: Assign) -> dict[str, str | int]:
    variables: dict[str, str | int] = {
        "JAX_COORDINATOR_ADDRESS": f"{_url_host(assign.store.host)}:{assign.store.port}",
        "JAX_NUM_PROCESSES": assign.world_size,
        "JAX_PROCESS_ID": assign.rank,
    }
    if assign.local_world_size > 1:
        variables["JAX_LOCAL_DEVICE_IDS"] = assign.local_rank
    return variables


def _num_pods(assign: Assign) -> int:
    return -(-assign.world_size // assign.local_world_size)


def _url_host(host: str) -> str:
    return f"[{host}]" if ":" in host else host
