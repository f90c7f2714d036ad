"""A cluster in Docker, made by kind, with the images of these tests on its nodes."""

import subprocess
from pathlib import Path
from typing import Any, Final

import yaml

from kubecluster import images

NAME: Final = "reknit-e2e"
BASE_IMAGE: Final = "python:3.11-slim"
NUM_WORKERS: Final = 2


class KindCluster:
    """The cluster.

    Args:
        folder: takes its configuration and kubeconfig.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def kubeconfig(self) -> Path:
        """Of a user who may do everything."""
        return self._folder / "kubeconfig"

    def up(self) -> None:
        """Builds the images, starts the cluster and hands it the images."""
        images.build_with_docker(BASE_IMAGE)
        config = self._folder / "kind.yaml"
        config.write_text(yaml.safe_dump(configuration()))
        options = ["--config", str(config), "--kubeconfig", str(self.kubeconfig)]
        _kind("create", "cluster", "--name", NAME, *options, "--wait", "3m")
        _kind("load", "docker-image", "--name", NAME, *(image.name for image in images.images()))

    def down(self) -> None:
        """Removes the cluster."""
        _kind("delete", "cluster", "--name", NAME, "--kubeconfig", str(self.kubeconfig))


def configuration() -> dict[str, Any]:
    """Workers that show their pods the Python of these tests, so that no image has to hold
    torch."""
    shown = [
        {"hostPath": str(path), "containerPath": str(path), "readOnly": True}
        for path in images.mounts()
    ]
    worker = {"role": "worker", "extraMounts": shown}
    return {
        "kind": "Cluster",
        "apiVersion": "kind.x-k8s.io/v1alpha4",
        "nodes": [{"role": "control-plane"}, *({**worker} for _ in range(NUM_WORKERS))],
    }


def _kind(*arguments: str) -> None:
    subprocess.run(["kind", *arguments], check=True)
