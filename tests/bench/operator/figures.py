"""What a process takes, and what the API server was asked to write."""

import os
from pathlib import Path
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from kubeapi import Api

WRITES: Final = frozenset({"POST", "PUT", "PATCH", "DELETE", "APPLY"})
OWN: Final = frozenset(
    {
        "distributedtrainingjobs",
        "pods",
        "services",
        "secrets",
        "events",
        "networkpolicies",
        "poddisruptionbudgets",
    }
)
"""What the operator may write but for Leases, which it does not use here: nobody else does so."""


def cpu_seconds(pid: int) -> float:
    """Time that a process has computed so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mib(pid: int) -> float:
    """Memory that a process has now."""
    fields = Path(f"/proc/{pid}/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


async def writes(api: Api) -> int:
    """Requests so far that were to change what the operator may write, as the server counts."""
    text = str((await api.call("GET", "/metrics"))["message"])
    total = 0.0
    for family in text_string_to_metric_families(text):
        if family.name != "apiserver_request":
            continue
        for sample in family.samples:
            labels = sample.labels
            if (
                sample.name == "apiserver_request_total"
                and labels["verb"] in WRITES
                and labels["resource"] in OWN
            ):
                total += sample.value
    return round(total)
