"""The bridge that all pods are connected to, DNS, and the addresses of Services."""

import subprocess
from pathlib import Path
from typing import Final

import yaml

from kubecluster.certificates import Certificates
from kubecluster.daemons import Daemons
from kubecluster.layout import BRIDGE, GATEWAY, POD_NETWORK, node_name

DNS: Final = "coredns"
PROXY: Final = "kube-proxy"


def add_bridge() -> None:
    """The bridge with the gateway's address; pods reach each other, and the world through it."""
    ip("link", "add", BRIDGE, "type", "bridge")
    add_address(GATEWAY, POD_NETWORK.partition("/")[2])
    ip("link", "set", BRIDGE, "up")
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")


def add_address(address: str, bits: str) -> None:
    """One more address of this machine, on the bridge."""
    ip("address", "replace", f"{address}/{bits}", "dev", BRIDGE)


def remove_bridge() -> None:
    if Path(f"/sys/class/net/{BRIDGE}").exists():
        ip("link", "delete", BRIDGE)


def start_network(folder: Path, certificates: Certificates, daemons: Daemons) -> None:
    """DNS for pods, and the rules that lead a Service's address to its pods."""
    zone = f"kubernetes cluster.local {{\n  kubeconfig {certificates.kubeconfig('admin')}\n"
    # Names of pods appear and vanish in recoveries: nobody is to remember them for long.
    zone += "  ttl 1\n }"
    names = folder / "Corefile"
    names.write_text(f".:53 {{\n bind {GATEWAY}\n errors\n {zone}\n}}\n")
    daemons.start(DNS, DNS, {"conf": names})
    settings = folder / "proxy.yaml"
    settings.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
                "kind": "KubeProxyConfiguration",
                "mode": "iptables",
                "clusterCIDR": POD_NETWORK,
                "hostnameOverride": node_name(0),
                "clientConnection": {"kubeconfig": str(certificates.kubeconfig("admin"))},
                "conntrack": {"maxPerCore": 0},
            }
        )
    )
    daemons.start(PROXY, PROXY, {"config": settings})


def remove_rules(programs: Path) -> None:
    """Takes back what the proxy and kubelets have told the kernel."""
    subprocess.run([programs / PROXY, "--cleanup"], capture_output=True, check=False)
    for program in ("iptables", "ip6tables"):
        for table in ("mangle", "nat", "filter"):
            for chain in ("KUBE-KUBELET-CANARY", "KUBE-PROXY-CANARY"):
                command = [program, "--table", table, "--delete-chain", chain]
                subprocess.run(command, capture_output=True, check=False)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
