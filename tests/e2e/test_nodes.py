"""Faults of nodes and of the API server, in a cluster of our own."""

import time

import pytest

pytestmark = pytest.mark.own_cluster


@pytest.fixture
def lose(cluster):
    """Loses a node until the test ends; when that was."""
    lost = []

    def act(name):
        lost.append(name)
        cluster.node(name).lose()
        return time.time()

    yield act
    for name in lost:
        cluster.node(name).restart()
    if lost:
        cluster.until_ready()


def test_a_node_is_lost(tracked, overcome, operator, lose, spread):
    with tracked(workers=spread).running() as job:
        job.until_step(20)
        # The operator's own loss is another matter: its Deployment waits for minutes.
        (pod,) = operator.items("pods")
        nodes = [job.node_of("worker", replica) for replica in (0, 1)]
        node = next(node for node in nodes if node != pod["spec"]["nodeName"])
        has_coordinator = job.node_of("coordinator") == node
        job.release()
        moment = lose(node)
        what = "node lost, and the coordinator with it" if has_coordinator else "node lost"
        overcome(job, what, moment, target=45)


def test_a_node_is_drained(tracked, overcome, admin, spread):
    with tracked(workers=spread, spares={"replicas": 1}).running() as job:
        job.until_step(20)
        job.until_spare_is_warm()
        nodes = [job.node_of("worker", replica) for replica in (0, 1)]
        node = next(node for node in nodes if node != job.node_of("spare"))
        job.release()
        moment = time.time()
        options = ["--ignore-daemonsets", "--delete-emptydir-data", "--timeout=60s"]
        try:
            # The jobs alone: the operator is another test's matter.
            admin("drain", node, *options, f"--pod-selector={job.selector}")
            overcome(job, "node drained, with a spare", moment, target=3, later=True)
        finally:
            admin("uncordon", node)
        # A planned move is no recovery.
        assert job.status()["recovery"]["count"] == 0


def test_the_api_server_is_restarted(tracked, overcome, cluster):
    with tracked().running() as job:
        job.until_step(20)
        job.release()
        moment = time.time()
        cluster.control_plane.stop_server()
        cluster.control_plane.start_server()
        # That it ends, and is known to have ended, takes an operator that has found its way back.
        overcome(job, "API server restarted", moment, target=1)
