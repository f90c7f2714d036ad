"""A job in a cluster, followed by the words of its ranks."""

import contextlib
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from kubecluster.waiting import until
from kubectl import Kubectl, KubectlError, Object
from stepmarks import Mark, parse, seconds_until_next_step, weights_by_step

GO: Final = "/dev/shm/go"
"""As in `tests/e2e/job/tracked.py`."""
KILL: Final = "import os, sys, time; print(time.time()); os.kill(int(sys.argv[1]), 9)"
ASK: Final = (
    "import os, urllib.request as r;"
    "to = r.Request('http://' + os.environ['REKNIT_POD_IP'] + ':7070/status');"
    "to.add_header('Authorization', 'Bearer ' + os.environ['REKNIT_TOKEN']);"
    "print(r.urlopen(to).read().decode())"
)


class ClusterJob:
    """One DistributedTrainingJob.

    Args:
        kubectl: in the job's namespace.
        manifest: of the job.
        folder: takes the logs of its pods, which are lost with them otherwise.
    """

    def __init__(self, kubectl: Kubectl, manifest: Object, folder: Path) -> None:
        self.kubectl = kubectl
        self.name: str = manifest["metadata"]["name"]
        workers = manifest["spec"].get("workers", {})
        self.num_ranks = workers.get("replicas", 1) * workers.get("processesPerReplica", 1)
        self.selector = f"reknit.dev/job={self.name}"
        self._manifest = manifest
        self._folder = folder

    @contextlib.contextmanager
    def running(self) -> Iterator["ClusterJob"]:
        """Applies the job; it is deleted after the block."""
        self.kubectl("apply", "--filename=-", input=self._manifest)
        stop = threading.Event()
        follower = threading.Thread(target=self._follow, args=(stop,))
        follower.start()
        try:
            yield self
        finally:
            stop.set()
            follower.join()
            self.kubectl("delete", "dtj", self.name, "--ignore-not-found")

    # what is seen of it

    def object(self) -> Object:
        return self.kubectl.get("dtj", self.name)

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.object().get("status", {})
        return found

    def pods(self, role: str = "") -> list[Object]:
        """Its pods, or those of one role, that nobody has deleted."""
        selector = self.selector + (f",reknit.dev/role={role}" if role else "")
        found = self.kubectl.items("pods", selector)
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def pod_of(self, role: str, replica: int = 0) -> str:
        """Name of the pod that runs there."""
        for pod in self.pods(role):
            labels = pod["metadata"]["labels"]
            is_running = pod["status"].get("phase") == "Running"
            if labels["reknit.dev/replica"] == str(replica) and is_running:
                return str(pod["metadata"]["name"])
        raise LookupError(f"no {role} {replica} runs")

    def node_of(self, role: str, replica: int = 0) -> str:
        """Name of the node that the pod runs on."""
        pod = self.kubectl.get("pod", self.pod_of(role, replica))
        return str(pod["spec"]["nodeName"])

    def address_of(self, role: str, replica: int = 0) -> str:
        pod = self.kubectl.get("pod", self.pod_of(role, replica))
        return str(pod["status"]["podIP"])

    def events(self, *reasons: str) -> list[Object]:
        """Events about the job, of these reasons."""
        field = f"involvedObject.name={self.name}"
        found: list[Object] = self.kubectl.get("events", f"--field-selector={field}")["items"]
        return [event for event in found if event["reason"] in reasons]

    def holds(self, condition: str) -> bool:
        conditions = self.status().get("conditions", ())
        return any((c["type"], c["status"]) == (condition, "True") for c in conditions)

    def marks(self) -> list[Mark]:
        """Of all steps so far."""
        files = sorted(self._folder.glob("*.log"))
        return parse(line for file in files for line in file.read_text().splitlines())

    def weights(self) -> dict[int, set[str]]:
        """All hashes of the weights that ranks have told, by step."""
        return weights_by_step(self.marks())

    def coordinator_status(self) -> dict[str, Any]:
        """What the operator reads too."""
        text = self.kubectl.exec(self.pod_of("coordinator"), "python", "-c", ASK)
        found: dict[str, Any] = json.loads(text)
        return found

    # waiting for it

    def until_running(self, seconds: float = 300) -> None:
        """Waits until it trains."""
        self._until(lambda: self.holds("Running"), seconds)

    def until_step(self, step: int, seconds: float = 300) -> None:
        """Waits until a rank has completed this step."""
        self._until(lambda: any(mark.step >= step for mark in self.marks()), seconds)

    def until_spare_is_warm(self, seconds: float = 300) -> None:
        """Waits until a spare could take a place at once."""
        self._until(lambda: self.coordinator_status()["num_spares"] > 0, seconds)

    def until_finished(self, seconds: float = 300) -> str:
        """Waits for the end; which condition holds then."""
        self._until(lambda: self.holds("Succeeded") or self.holds("Failed"), seconds)
        return "Succeeded" if self.holds("Succeeded") else "Failed"

    def held_up(self, fault: float, seconds: float = 180) -> float:
        """Seconds from a fault until every rank had completed a new step; waits for that."""

        def found() -> float | None:
            return seconds_until_next_step(self.marks(), fault, self.num_ranks)

        self._until(lambda: found() is not None, seconds)
        result = found()
        assert result is not None
        return result

    def evict(self, name: str) -> float:
        """Through the Eviction API, as a drain does; returns when."""
        namespace = self.kubectl.namespace
        moment = time.time()
        self.kubectl(
            "create",
            f"--raw=/api/v1/namespaces/{namespace}/pods/{name}/eviction",
            "--filename=-",
            input={
                "apiVersion": "policy/v1",
                "kind": "Eviction",
                "metadata": {"name": name, "namespace": namespace},
            },
        )
        return moment

    def _until(self, fits: Any, seconds: float) -> None:
        until(fits, seconds, lambda: self.kubectl("describe", "dtj", self.name) + self._pods_text())

    def _pods_text(self) -> str:
        tails = [
            f"--- {file.name}\n" + "\n".join(file.read_text().splitlines()[-15:])
            for file in sorted(self._folder.glob("*.log"))
        ]
        return self.kubectl("get", "pods", "--output=wide") + "\n".join(tails)

    # what is done to it

    def release(self) -> None:
        """Lets it train on after the step at which it waits for the test."""
        for pod in self.pods("worker"):
            self.kubectl.exec(pod["metadata"]["name"], "touch", GO)

    def kill_rank(self, rank: int) -> float:
        """Kills a rank's process from within its container; returns when."""
        found = next(r for r in self.coordinator_status()["ranks"] if r["rank"] == rank)
        return float(self.kubectl.exec(found["agent"], "python", "-c", KILL, str(found["pid"])))

    def delete_pod(self, name: str, *options: str) -> float:
        """As `kubectl delete pod` does; returns when the API server was told."""
        moment = time.time()
        self.kubectl("delete", "pod", name, "--wait=false", *options)
        return moment

    def _follow(self, stop: threading.Event) -> None:
        """Writes the logs of all training pods to files as they come."""
        followers: dict[str, subprocess.Popen[bytes]] = {}
        with contextlib.ExitStack() as stack:
            while not stop.wait(0.3):
                for pod in self._started():
                    if pod not in followers:
                        log = stack.enter_context((self._folder / f"{pod}.log").open("wb"))
                        command = [*self.kubectl.command, "logs", "--follow", pod]
                        followers[pod] = subprocess.Popen(
                            command, stdout=log, stderr=subprocess.DEVNULL
                        )
            for follower in followers.values():
                follower.terminate()
                follower.wait()

    def _started(self) -> list[str]:
        selector = f"{self.selector},reknit.dev/role!=coordinator"
        try:
            found = self.kubectl.items("pods", selector)
        except KubectlError:
            # The API server may be what a test has taken down.
            return []
        return [
            pod["metadata"]["name"]
            for pod in found
            if any(c.get("started") for c in pod["status"].get("containerStatuses", ()))
        ]
