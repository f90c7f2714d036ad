"""kubectl, as a user would call it."""

import contextlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kubeprograms
from kubecluster.waiting import until

Object = dict[str, Any]


class KubectlError(Exception):
    """kubectl has refused; the text says why."""


class Kubectl:
    """One user's kubectl in one namespace.

    Args:
        kubeconfig: of the user.
        namespace: where objects are looked for unless a call says otherwise.
    """

    def __init__(self, kubeconfig: Path, namespace: str = "default") -> None:
        self.kubeconfig = kubeconfig
        self.namespace = namespace
        self._program = str(kubeprograms.find("kubectl"))

    def at(self, namespace: str) -> "Kubectl":
        """The same user in another namespace."""
        return Kubectl(self.kubeconfig, namespace)

    @contextlib.contextmanager
    def namespace_of_its_own(self, name: str) -> Iterator["Kubectl"]:
        """The same user in a new namespace that is gone after the block."""
        self("create", "namespace", name)
        try:
            yield self.at(name)
        finally:
            self("delete", "namespace", name, "--wait=false")

    @property
    def command(self) -> list[str]:
        return [self._program, f"--kubeconfig={self.kubeconfig}", f"--namespace={self.namespace}"]

    def __call__(self, *arguments: str, input: object = None, seconds: float = 120) -> str:  # noqa: A002
        """What it prints; `input` is handed to it as JSON.

        Raises:
            KubectlError: it has failed.
        """
        done = subprocess.run(
            [*self.command, *arguments],
            input=None if input is None else json.dumps(input),
            capture_output=True,
            text=True,
            timeout=seconds,
            env={**os.environ, "KUBECTL_COMMAND_HEADERS": "false"},
        )
        if done.returncode:
            raise KubectlError(done.stderr)
        return done.stdout

    def get(self, *arguments: str) -> Object:
        """An object, or a list of objects."""
        found: Object = json.loads(self("get", *arguments, "--output=json"))
        return found

    def items(self, kind: str, selector: str = "") -> list[Object]:
        """All objects of a kind with these labels."""
        found: list[Object] = self.get(kind, f"--selector={selector}")["items"]
        return found

    def exec(self, pod: str, *command: str) -> str:
        """What a command prints in the first container of a pod."""
        return self("exec", pod, "--", *command)

    def until(self, fits: Callable[[], bool], seconds: float, *shown: str) -> None:
        """Waits until `fits`; when it does not, the error has what `kubectl get` shows of
        `shown`."""

        def tell() -> str:
            return self("get", *shown) if shown else ""

        until(fits, seconds, tell)
