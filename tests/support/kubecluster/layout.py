"""Addresses, ports and files of the cluster."""

import tempfile
from pathlib import Path
from typing import Final

STATE: Final = Path(tempfile.gettempdir()) / "reknit-cluster"
"""Short, for a socket's path may have 107 characters."""
BRIDGE: Final = "reknit0"
POD_NETWORK: Final = "10.244.0.0/16"
GATEWAY: Final = "10.244.0.1"
"""First address of the pod network, on the bridge: API server, DNS, first node and gateway. The
API server refuses to advertise a loopback address."""
SERVICE_NETWORK: Final = "10.96.0.0/16"
API_SERVICE: Final = "10.96.0.1"
API_PORT: Final = 6443
API_URL: Final = f"https://{GATEWAY}:{API_PORT}"
ETCD_URL: Final = "http://127.0.0.1:2379"
ETCD_PEER_URL: Final = "http://127.0.0.1:2380"
CNI_PLUGINS: Final = Path("/usr/lib/cni")
CGROUPS: Final = Path("/sys/fs/cgroup")


def node_name(number: int) -> str:
    return f"node{number}"


def node_address(number: int) -> str:
    """Of the kubelet, on the bridge."""
    return f"10.244.{number}.1"


def pod_range(number: int) -> tuple[str, str]:
    """First and last address that a node gives to its pods."""
    return f"10.244.{number}.10", f"10.244.{number}.250"
