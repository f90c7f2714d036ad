"""A node: a kubelet with a containerd of its own."""

import contextlib
import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from kubecluster.archives import PAUSE
from kubecluster.certificates import Certificates
from kubecluster.daemons import Daemons, kill
from kubecluster.layout import (
    BRIDGE,
    CGROUPS,
    CNI_PLUGINS,
    GATEWAY,
    POD_NETWORK,
    node_address,
    node_name,
    pod_range,
)
from kubecluster.network import add_address
from kubecluster.waiting import until

_SHARES: Final = {"cpu.shares": "4096", "cpu.weight": "400"}
"""As a whole a new group gets the processor time of one process, and a node runs several."""


class Node:
    """One node of the cluster.

    Args:
        number: from 0 on.
        folder: takes images, containers, volumes and logs of this node.
        certificates: those of the cluster.
        daemons: what starts the programs.
    """

    def __init__(
        self, number: int, folder: Path, certificates: Certificates, daemons: Daemons
    ) -> None:
        self.name = node_name(number)
        self._number = number
        self._folder = folder
        self._certificates = certificates
        self._daemons = daemons
        self._cgroup = f"reknit-{self.name}"

    @property
    def _kubelet(self) -> str:
        return f"kubelet-{self.name}"

    @property
    def _containerd(self) -> str:
        return f"containerd-{self.name}"

    @property
    def _socket(self) -> Path:
        return self._folder / "containerd.sock"

    def start(self, pause: Path) -> None:
        """Starts the node; it becomes ready later.

        Args:
            pause: archive with the image of pod sandboxes.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        address = node_address(self._number)
        if address != GATEWAY:
            add_address(address, "32")
        hosts = [f"DNS:{self.name}", f"IP:{address}"]
        user = f"system:node:{self.name}"
        self._certificates.issue(self.name, user, group="system:nodes", hosts=hosts)
        self._write("containerd.toml", _toml(self._containerd_settings()))
        (self._folder / "cni").mkdir(exist_ok=True)
        self._write("cni/10-bridge.conflist", json.dumps(self._cni_settings()))
        self._write("kubelet.yaml", yaml.safe_dump(self._kubelet_settings()))
        self._make_cgroups()
        self._start_containerd()
        self.load(pause)
        self._start_kubelet()

    def load(self, archive: Path) -> None:
        """Makes the image in an archive known here, unless that has been done."""
        done = self._folder / f"{archive.name}.loaded"
        if not done.exists():
            self._ctr("images", "import", str(archive))
            done.touch()

    def lose(self) -> None:
        """The node dies with all that runs on it, and says nothing to anybody."""
        self._daemons.end([self._kubelet, self._containerd], signal.SIGKILL)
        kill(self._shims())
        kill(self._contained())

    def stop(self) -> None:
        """Ends the node's programs and all containers."""
        self._daemons.end([self._kubelet])
        kill(self._contained())
        self._daemons.end([self._containerd])
        kill(self._shims())
        self._remove_cgroups()

    def restart(self) -> None:
        """A lost node comes back."""
        self._start_containerd()
        self._start_kubelet()

    def _start_containerd(self) -> None:
        self._socket.unlink(missing_ok=True)
        settings = self._folder / "containerd.toml"
        self._daemons.start(self._containerd, "containerd", {"config": settings})
        until(self._socket.exists, 30, lambda: self._daemons.log(self._containerd))

    def _start_kubelet(self) -> None:
        flags = {
            "config": self._folder / "kubelet.yaml",
            "kubeconfig": self._certificates.kubeconfig(self.name),
            "root-dir": self._folder / "kubelet",
            "hostname-override": self.name,
            "node-ip": node_address(self._number),
        }
        self._daemons.start(self._kubelet, "kubelet", flags)

    def _containerd_settings(self) -> dict[str, Any]:
        runc = shutil.which("runc")
        if runc is None:
            raise FileNotFoundError("runc is not installed")
        runtime = {
            "runtime_type": "io.containerd.runc.v2",
            "options": {"BinaryName": runc, "SystemdCgroup": False},
        }
        cri = {
            # Where raising a score is not allowed, runc dies with a message about a pipe.
            "restrict_oom_score_adj": True,
            "cni": {"bin_dirs": [str(CNI_PLUGINS)], "conf_dir": str(self._folder / "cni")},
            "containerd": {"runtimes": {"runc": runtime}},
        }
        return {
            "version": 3,
            "root": str(self._folder / "containerd"),
            "state": str(self._folder / "run"),
            "grpc": {"address": str(self._socket)},
            "ttrpc": {"address": f"{self._socket}.ttrpc"},
            "plugins": {
                "io.containerd.cri.v1.images": {"pinned_images": {"sandbox": PAUSE}},
                "io.containerd.cri.v1.runtime": cri,
            },
        }

    def _cni_settings(self) -> dict[str, Any]:
        first, last = pod_range(self._number)
        subnet = {
            "subnet": POD_NETWORK,
            "rangeStart": first,
            "rangeEnd": last,
            "gateway": GATEWAY,
        }
        bridge = {
            "type": "bridge",
            "bridge": BRIDGE,
            "hairpinMode": True,
            "ipam": {
                "type": "host-local",
                "dataDir": str(self._folder / "addresses"),
                "ranges": [[subnet]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }
        return {"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge]}

    def _kubelet_settings(self) -> dict[str, Any]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(self._certificates.authority)},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(self._certificates.certificate(self.name)),
            "tlsPrivateKeyFile": str(self._certificates.key(self.name)),
            "address": node_address(self._number),
            "healthzPort": 10348 + self._number,
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self._cgroup}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "containerRuntimeEndpoint": f"unix://{self._socket}",
            "clusterDNS": [GATEWAY],
            "clusterDomain": "cluster.local",
            "resolvConf": "",
            "maxPods": 200,
            # Tests fill the disk of the machine for other reasons than pods.
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%"},
            "imageGCHighThresholdPercent": 100,
            "enforceNodeAllocatable": [],
            "nodeStatusUpdateFrequency": "2s",
            "nodeLeaseDurationSeconds": 8,
            "podLogsDir": str(self._folder / "log"),
        }

    def _write(self, name: str, text: str) -> None:
        (self._folder / name).write_text(text)

    def _ctr(self, *arguments: str) -> None:
        command = ["ctr", "--address", str(self._socket), "--namespace", "k8s.io", *arguments]
        environment = self._daemons.environment
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)

    def _cgroup_folders(self) -> list[Path]:
        """This node's cgroup, of each hierarchy where there are several."""
        roots = [CGROUPS] if (CGROUPS / "cgroup.controllers").exists() else list(CGROUPS.glob("*"))
        return [root / self._cgroup for root in roots]

    def _make_cgroups(self) -> None:
        for folder in self._cgroup_folders():
            # Some of the folders are other file systems, or not ours to write.
            with contextlib.suppress(OSError):
                folder.mkdir(exist_ok=True)
            for name in ("cpuset.cpus", "cpuset.mems"):
                # In the first version a new group has no processors until it is told.
                if (folder / name).exists() and not (CGROUPS / "cgroup.controllers").exists():
                    (folder / name).write_text((folder.parent / name).read_text())
            for name, value in _SHARES.items():
                if (folder / name).exists():
                    (folder / name).write_text(value)

    def _remove_cgroups(self) -> None:
        for folder in self._cgroup_folders():
            for path in sorted(folder.rglob("*"), key=lambda p: len(p.parts), reverse=True):
                if path.is_dir():
                    path.rmdir()
            if folder.exists():
                folder.rmdir()

    def _contained(self) -> set[int]:
        """The processes of all containers."""
        found: set[int] = set()
        for folder in self._cgroup_folders():
            for file in folder.rglob("cgroup.procs"):
                with contextlib.suppress(OSError):
                    found.update(map(int, file.read_text().split()))
        return found

    def _shims(self) -> set[int]:
        return set(_processes_with(f"-address\0{self._socket}\0"))


def _processes_with(words: str) -> Iterator[int]:
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = f"{(folder / 'cmdline').read_text()}\0"
            if "containerd-shim" in command and words in command:
                yield int(folder.name)


def _toml(settings: dict[str, Any], above: str = "") -> str:
    """Nested mappings of texts, lists of texts, numbers and truth values as TOML."""
    lines, tables = [], []
    for key, value in settings.items():
        if isinstance(value, dict):
            name = f"{above}'{key}'"
            tables.append(f"[{name}]\n{_toml(value, f'{name}.')}")
        else:
            # JSON writes these as TOML does.
            lines.append(f"{key} = {json.dumps(value)}\n")
    return "".join(lines + tables)
