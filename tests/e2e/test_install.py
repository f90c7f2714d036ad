"""From `helm install` to a trained model, and to nothing being left."""

import re
from pathlib import Path

import yaml

from clusterjob import ClusterJob
from reknitrelease import TYPE, leftovers, release, until_nothing_is_left

EXAMPLE = Path(__file__).parents[2] / "examples" / "gpt_bytes" / "job.yaml"


def example(template):
    """The manifest of README, with fewer steps and a smaller model."""
    manifest = yaml.safe_load(EXAMPLE.read_text())
    spec = manifest["spec"]
    spec["workers"]["template"] = template
    spec["entrypoint"]["config"] |= {"depth": 2, "steps": 60, "context": 32}
    spec["batch"] = {"global": 16, "micro": 4}
    return manifest


def test_the_example_trains_and_leaves_nothing(kubectl, pod_template, tmp_path):
    with ClusterJob(kubectl, example(pod_template), tmp_path).running() as job:
        job.until_running()
        nodes = {pod["spec"]["nodeName"] for pod in job.pods("worker")}
        shown = kubectl("get", "dtj", "gpt-bytes", "--output=wide")
        described = kubectl("describe", "dtj", "gpt-bytes")
        assert job.until_finished() == "Succeeded"
        finished = kubectl("get", "dtj", "gpt-bytes")
        words = (tmp_path / "gpt-bytes-worker-0.log").read_text()
        kubectl("delete", "dtj", "gpt-bytes")
        until_nothing_is_left(kubectl, job.selector)
    print(shown, finished, sep="\n")
    assert len(nodes) == 2
    assert "attempt 1 began" in described
    assert re.search(r"gpt-bytes +Succeeded .*\b60\b", finished), finished
    assert "byte-unigram entropy" in words


def test_a_release_leaves_nothing_but_the_type(admin, kubectl, images_used):
    """A second one, which serves a namespace of its own, beside the one of all tests."""
    values = [f"--set=namespaces={{{kubectl.namespace}}}", *images_used.values()]
    with release(admin, "second", kubectl.namespace, ["--set=crds.install=false", *values]):
        assert leftovers(admin, "app.kubernetes.io/instance=second")
    until_nothing_is_left(admin, "app.kubernetes.io/instance=second")
    assert TYPE in admin("get", "crd", TYPE)
