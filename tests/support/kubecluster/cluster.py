"""The whole cluster: up, down, and what tests do to it."""

import contextlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import kubeprograms
from kubecluster import network
from kubecluster.archives import write_pause
from kubecluster.certificates import Certificates
from kubecluster.controlplane import API_SERVER, CONTROLLERS, ETCD, SCHEDULER, ControlPlane
from kubecluster.daemons import Daemons
from kubecluster.layout import CNI_PLUGINS, STATE
from kubecluster.node import Node
from kubecluster.waiting import until

_PROGRAMS: Final = [
    *(ETCD, API_SERVER, CONTROLLERS, SCHEDULER, network.DNS, network.PROXY),
    *("kubelet", "kubectl", "containerd", "containerd-shim-runc-v2", "ctr"),
]
_NODES_AT_MOST: Final = 10


class Cluster:
    """A cluster of so many nodes, in a folder of its own."""

    def __init__(self, num_nodes: int = 2, folder: Path = STATE) -> None:
        self._folder = folder
        self._programs = folder / "programs"
        self._certificates = Certificates(folder / "certificates")
        self._daemons = Daemons(folder, self._programs)
        self.control_plane = ControlPlane(folder, self._certificates, self._daemons)
        self.nodes = [self._node(number) for number in range(num_nodes)]

    @property
    def kubeconfig(self) -> Path:
        """Of a user who may do everything."""
        return self._certificates.kubeconfig("admin")

    @property
    def exists(self) -> bool:
        """Whether it has come up and not been taken down."""
        return self._folder.exists()

    def node(self, name: str) -> Node:
        return next(node for node in self.nodes if node.name == name)

    def up(self) -> None:
        """Starts everything; returns when all nodes are ready.

        Raises:
            FileNotFoundError: something has to be installed before.
            FileExistsError: a cluster runs already, or has not been taken down.
        """
        _check_machine()
        if self.exists:
            raise FileExistsError(f"{self._folder} exists: take that cluster down first")
        try:
            self._start()
        except BaseException:
            self.down()
            raise

    def _start(self) -> None:
        self._folder.mkdir(mode=0o711)
        kubeprograms.folder_of(_PROGRAMS, self._programs)
        self._remember_namespaces()
        self._certificates.begin()
        network.add_bridge()
        self.control_plane.start()
        network.start_network(self._folder, self._certificates, self._daemons)
        pause = self._folder / "pause.tar"
        write_pause(pause)
        for node in self.nodes:
            node.start(pause)
        self.until_ready()

    def until_ready(self) -> None:
        """Waits until pods can run on all nodes."""
        until(self.is_ready, 120, lambda: self._kubectl("describe", "nodes"))

    def down(self) -> None:
        """Ends everything and removes what is left of it; a cluster that is not there is no
        mistake."""
        self._daemons.end([SCHEDULER, CONTROLLERS, network.PROXY, network.DNS])
        for number in range(_NODES_AT_MOST):
            self._node(number).stop()
        self._daemons.end([API_SERVER])
        self._daemons.end(self._daemons.names())
        _unmount_below(self._folder)
        self._remove_namespaces()
        if (self._programs / network.PROXY).exists():
            network.remove_rules(self._programs)
        network.remove_bridge()
        shutil.rmtree(self._folder, ignore_errors=True)

    def load(self, archive: Path) -> None:
        """Makes the image in an archive known on all nodes."""
        for node in self.nodes:
            node.load(archive)

    def is_ready(self) -> bool:
        """Whether all nodes are ready, and pods can be made."""
        found = json.loads(self._kubectl("get", "nodes", "--output=json"))["items"]
        account = self._kubectl("get", "serviceaccount", "default", "--ignore-not-found")
        return sum(map(_is_ready, found)) == len(self.nodes) and bool(account)

    def _node(self, number: int) -> Node:
        folder = self._folder / f"node{number}"
        return Node(number, folder, self._certificates, self._daemons)

    def _kubectl(self, *arguments: str) -> str:
        command = [self._programs / "kubectl", f"--kubeconfig={self.kubeconfig}", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    @property
    def _namespaces(self) -> Path:
        return self._folder / "network-namespaces"

    def _remember_namespaces(self) -> None:
        self._namespaces.write_text(json.dumps(sorted(_network_namespaces())))

    def _remove_namespaces(self) -> None:
        """Those of pods: they appeared since the cluster came up."""
        if self._namespaces.exists():
            for name in _network_namespaces() - set(json.loads(self._namespaces.read_text())):
                network.ip("netns", "delete", name)


@contextlib.contextmanager
def running(num_nodes: int) -> Iterator[Cluster]:
    """The cluster that runs already, or one that is gone after the block."""
    cluster = Cluster(num_nodes)
    if cluster.exists:
        yield cluster
        return
    cluster.up()
    try:
        yield cluster
    finally:
        cluster.down()


def _check_machine() -> None:
    missing = [
        name for name in ("runc", "iptables", "ip", "openssl", "gcc") if not shutil.which(name)
    ]
    if not (CNI_PLUGINS / "bridge").exists():
        missing.append("containernetworking-plugins")
    if missing:
        raise FileNotFoundError(f"install {', '.join(missing)}")


def _is_ready(node: dict[str, Any]) -> bool:
    conditions = node["status"].get("conditions", ())
    return any(found["type"] == "Ready" and found["status"] == "True" for found in conditions)


def _network_namespaces() -> set[str]:
    listed = subprocess.run(["ip", "netns", "list"], check=True, capture_output=True, text=True)
    names = (line.split()[0] for line in listed.stdout.splitlines())
    return {name for name in names if name.startswith("cni-")}


def _unmount_below(folder: Path) -> None:
    lines = Path("/proc/mounts").read_text().splitlines()
    points = [line.split()[1] for line in lines]
    for point in sorted((p for p in points if p.startswith(f"{folder}/")), reverse=True):
        subprocess.run(["umount", "--lazy", point], check=False, capture_output=True)
