"""Reknit's type and the operator's permissions in an API server that has no controllers."""

import asyncio
import contextlib
from pathlib import Path
from typing import Final

import yaml

from chart import render
from kubeapi import Api, RefusalError
from reknit_operator.api.crd import FILE_NAME

USER: Final = "operator"
"""Has what the chart gives the operator, and no more."""
CRDS: Final = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
RBAC: Final = "/apis/rbac.authorization.k8s.io/v1"
ROOT: Final = Path(__file__).parents[2]


async def install(api: Api) -> None:
    """Returns when jobs can be created."""
    await api.call("POST", CRDS, yaml.safe_load((ROOT / "crds" / FILE_NAME).read_text()))
    roles = [item for item in render() if item["kind"] == "ClusterRole"]
    for role in roles:
        await api.call("POST", f"{RBAC}/clusterroles", role)
    user = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": USER}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole"}
    binding = {
        "metadata": {"name": USER},
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
