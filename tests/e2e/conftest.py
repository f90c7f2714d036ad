"""A real cluster with Reknit in it, installed by Helm; each test has a namespace of its own.

The cluster is that of KUBECONFIG; with E2E_CLUSTER=kind one in Docker; else that of `make
cluster-up`, or one that this session starts and takes down. `reknitrelease` says what may be set
where KUBECONFIG is given.
"""

import itertools
import os
from pathlib import Path

import pytest

import reknitrelease
from clusterjob import ClusterJob
from kindcluster import KindCluster
from kubecluster import images
from kubecluster.cluster import running
from kubectl import Kubectl
from stepmarks import longest_pause
from trackedjob import HOLD, code, manifest

NUMBERS = itertools.count(1)
GIVEN = os.environ.get("KUBECONFIG")
IN_DOCKER = os.environ.get("E2E_CLUSTER") == "kind"


def pytest_collection_modifyitems(config, items):
    """What is done to nodes and the API server needs a cluster whose processes are ours."""
    if GIVEN or IN_DOCKER:
        owned = [item for item in items if item.get_closest_marker("own_cluster")]
        config.hook.pytest_deselected(items=owned)
        items[:] = [item for item in items if item not in owned]


@pytest.fixture(scope="session")
def cluster():
    """The cluster of processes on this machine."""
    archives = images.archives()
    with running(2) as found:
        for archive in archives:
            found.load(archive)
        yield found


@pytest.fixture(scope="session")
def kind_cluster(tmp_path_factory):
    """The cluster in Docker."""
    found = KindCluster(tmp_path_factory.mktemp("kind"))
    try:
        found.up()
        yield found
    finally:
        found.down()


@pytest.fixture(scope="session")
def admin(request):
    """kubectl of a user who may do everything."""
    if GIVEN:
        return Kubectl(Path(GIVEN))
    name = "kind_cluster" if IN_DOCKER else "cluster"
    return Kubectl(request.getfixturevalue(name).kubeconfig)


@pytest.fixture(scope="session")
def images_used():
    """Those of this cluster."""
    return reknitrelease.given_images() if GIVEN else reknitrelease.OWN_IMAGES


@pytest.fixture(scope="session")
def pod_template(images_used):
    """What training pods need to run here."""
    return images_used.pod_template()


@pytest.fixture(scope="session")
def operator(admin, images_used):
    """kubectl in the namespace of the operator, which is installed while tests run."""
    namespace = reknitrelease.NAMESPACE
    with reknitrelease.release(admin, "reknit", namespace, images_used.values()):
        yield admin.at(namespace)
    admin("delete", "crd", reknitrelease.TYPE)
    admin("delete", "namespace", namespace)


@pytest.fixture
def kubectl(admin, operator):
    """kubectl in a namespace that is gone after the test."""
    with admin.namespace_of_its_own(f"e2e-{next(NUMBERS)}") as found:
        yield found


@pytest.fixture
def tracked(kubectl, pod_template, tmp_path):
    """Makes jobs that tell of their steps and wait to be released; keyword arguments are parts of
    `spec`."""
    kubectl("apply", "--filename=-", input=code())

    def make(name="tracked", *, config=None, **spec):
        folder = tmp_path / name
        folder.mkdir()
        wanted = manifest(name, pod_template, {**HOLD, **(config or {})}, **spec)
        return ClusterJob(kubectl, wanted, folder)

    return make


@pytest.fixture(scope="session")
def figures():
    """Seconds that each fault has cost and the target, printed at the end."""
    found = {}
    yield found
    lines = [f"{what:45} {cost:8.2f} {goal:8.2f}" for what, (cost, goal) in found.items()]
    header = f"{'fault':45} {'seconds':>8} {'target':>8}"
    print("\n".join(["", header, *lines]))


@pytest.fixture
def overcome(undisturbed, figures):
    """Waits for the end of a job, compares its weights and notes what a fault has cost: the seconds
    until the next step of all ranks, or, where the pause comes `later`, the longest from then on.

    Targets are for a machine with nothing else to do. What takes ten times as long was not
    recovered in the way that was meant.
    """

    def check(job, what, moment, *, target, later=False):
        seconds = 0.0 if later else job.held_up(moment)
        assert job.until_finished() == "Succeeded"
        if later:
            seconds = longest_pause(job.marks(), moment)
        figures[what] = (seconds, target)
        print(f"{what}: {seconds:.2f} s without a new step, target {target} s")
        assert job.weights() == undisturbed
        assert seconds < 10 * target

    return check


@pytest.fixture
def spread(pod_template):
    """Workers on different nodes where there are enough of them."""
    term = {
        "topologyKey": "kubernetes.io/hostname",
        "labelSelector": {"matchLabels": {"reknit.dev/role": "worker"}},
    }
    affinity = {
        "podAntiAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 100, "podAffinityTerm": term}
            ]
        }
    }
    return {"template": {"spec": {**pod_template.get("spec", {}), "affinity": affinity}}}


@pytest.fixture(scope="session")
def undisturbed(admin, operator, pod_template, tmp_path_factory):
    """Hashes of the weights after each step of a job that nothing happens to."""
    wanted = manifest("undisturbed", pod_template, {"pace": 0.0})
    with admin.namespace_of_its_own("e2e-undisturbed") as kubectl:
        kubectl("apply", "--filename=-", input=code())
        with ClusterJob(kubectl, wanted, tmp_path_factory.mktemp("logs")).running() as job:
            assert job.until_finished() == "Succeeded"
            found = job.weights()
    assert all(len(hashes) == 1 for hashes in found.values())
    return found
