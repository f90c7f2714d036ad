"""A whole job trains: the API server is real, and so are operator, agents and ranks."""

import signal
from pathlib import Path

import yaml

from processnode import ProcessNode
from reknit_operator.constants import Kind

EXAMPLE = Path(__file__).parents[2] / "examples" / "gpt_bytes"


def finished(jobs):
    return holds(jobs, "Succeeded") or holds(jobs, "Failed")


def trains(jobs):
    return holds(jobs, "Running")


def holds(jobs, kind):
    return any(
        (found["type"], found["status"]) == (kind, "True")
        for job in jobs.values()
        for found in job.get("status", {}).get("conditions", ())
    )


async def test_the_example_trains_although_operator_and_a_pod_are_lost(
    api, namespace, operator, tmp_path
):
    manifest = yaml.safe_load((EXAMPLE / "job.yaml").read_text())
    manifest["metadata"]["namespace"] = namespace
    manifest["spec"] |= {"workers": {"replicas": 2}, "batch": {"global": 4, "micro": 2}}
    small = {"depth": 1, "context": 32, "evaluation_samples": 8, "steps": 200}
    manifest["spec"]["entrypoint"]["config"] = small
    async with ProcessNode(api, namespace, tmp_path, EXAMPLE).running():
        await api.create(manifest)
        await api.until(Kind.JOB, namespace, trains, seconds=240)
        await operator.send(signal.SIGKILL)
        await api.delete(Kind.POD, namespace, "gpt-bytes-worker-1")
        await operator.start()
        jobs = await api.until(Kind.JOB, namespace, finished, seconds=240)
    status = jobs["gpt-bytes"]["status"]
    assert holds(jobs, "Succeeded"), status
    assert status["progress"]["step"] == 200
    # Nothing was started anew but the pod, and its coordinator never noticed the operator's end.
    assert (status["attempts"], status["membership"]["incarnation"]) == (1, 1)
