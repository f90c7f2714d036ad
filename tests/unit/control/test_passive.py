"""Objects of a job that run nothing: who may connect, what may be evicted, and when they exist."""

from dataclasses import replace

import pytest

from reknit_operator.api.types import ConditionType
from reknit_operator.build.coordinator import build_coordinator
from reknit_operator.build.disruption import build_disruption_budget
from reknit_operator.build.network import build_network_policy
from reknit_operator.build.options import BuildOptions
from reknit_operator.build.passive import build_passive
from reknit_operator.build.worker import build_worker
from reknit_operator.constants import Kind
from reknit_operator.reconcile.decide import decide
from reknit_operator.reconcile.observed import Observed, Ref

CLUSTER = BuildOptions(coordinator_clients=("reknit-system",), disruption_budgets=True)
BUDGET = Ref(Kind.DISRUPTION_BUDGET, "default", "gpt-workers", "b")
POLICY = Ref(Kind.NETWORK_POLICY, "default", "gpt", "n")


def labels_of(pod):
    return pod["metadata"]["labels"]


@pytest.fixture
def pods(make_job):
    job = make_job()
    return {
        "worker": build_worker(job, CLUSTER, 0, attempt=1, replacements=0),
        "coordinator": build_coordinator(job, CLUSTER, incarnation=1, attempt=1, replacements=0),
    }


def test_a_laptop_needs_no_policy_and_no_budget(make_job):
    kinds = [item["kind"] for item in build_passive(make_job(), BuildOptions(), "t")]
    assert kinds == ["Secret", "Service"]


def test_a_cluster_gets_all(make_job):
    kinds = [item["kind"] for item in build_passive(make_job(), CLUSTER, "t")]
    assert kinds == ["Secret", "Service", "NetworkPolicy", "PodDisruptionBudget"]


def test_names_do_not_clash(make_job):
    items = build_passive(make_job(), CLUSTER, "t")
    assert len({(item["kind"], item["metadata"]["name"]) for item in items}) == len(items)
    assert all(len(item["metadata"]["name"]) <= 63 for item in items)


def test_the_policy_is_about_the_pods_of_this_job_alone(make_job, pods):
    spec = build_network_policy(make_job(), ("reknit-system",))["spec"]
    for pod in pods.values():
        assert spec["podSelector"]["matchLabels"].items() <= labels_of(pod).items()
    other = make_job(name="other")
    worker = build_worker(other, CLUSTER, 0, attempt=1, replacements=0)
    assert not spec["podSelector"]["matchLabels"].items() <= labels_of(worker).items()


def test_only_the_coordinator_port_is_open_to_others(make_job, pods):
    policy = build_network_policy(make_job(), ("reknit-system", "monitoring"))
    inside, outside = policy["spec"]["ingress"]
    (peer,) = inside["from"]
    assert peer["podSelector"]["matchLabels"].items() <= labels_of(pods["worker"]).items()
    assert "ports" not in inside
    named = [peer["namespaceSelector"]["matchLabels"] for peer in outside["from"]]
    assert [list(labels.values()) for labels in named] == [["reknit-system"], ["monitoring"]]
    (port,) = pods["coordinator"]["spec"]["containers"][0]["ports"]
    assert [opened["port"] for opened in outside["ports"]] == [port["containerPort"]]
    assert policy["spec"]["policyTypes"] == ["Ingress"]


@pytest.mark.parametrize("replicas", [1, 2, 7])
def test_a_drain_takes_one_worker_at_a_time_and_never_waits_for_the_last(make_job, replicas):
    spec = build_disruption_budget(make_job(workers={"replicas": replicas}))["spec"]
    assert replicas - spec["minAvailable"] == 1
    assert spec["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


@pytest.mark.parametrize(("name", "counts"), [("worker", True), ("coordinator", False)])
def test_the_budget_counts_training_pods_only(make_job, pods, name, counts):
    selector = build_disruption_budget(make_job())["spec"]["selector"]
    labels = labels_of(pods[name])
    [role] = selector["matchExpressions"]
    assert selector["matchLabels"].items() <= labels.items()
    assert role["operator"] == "In" and "spare" in role["values"]
    assert (labels[role["key"]] in role["values"]) == counts


def test_what_is_missing_is_made_and_nothing_twice(settled):
    world = settled(options=CLUSTER)
    made = [item["kind"] for item in decide(world, world.written).creates]
    assert made == ["NetworkPolicy", "PodDisruptionBudget"]
    whole = replace(world, passive=(*world.passive, BUDGET, POLICY))
    assert decide(whole, whole.written).empty


def test_a_suspended_job_has_no_budget_because_its_size_may_change(settled, make_job, now):
    running = settled(options=CLUSTER)
    job = make_job(status=running.job.status, suspend=True)
    passive = (*running.passive, BUDGET, POLICY)
    suspended = Observed(job=job, passive=passive, written=now, options=CLUSTER)
    plan = decide(suspended, now)
    assert [gone.ref for gone in plan.deletes] == [BUDGET]
    assert plan.status is not None
    states = {found.type: found.status for found in plan.status.conditions}
    assert states[ConditionType.SUSPENDED] == "True"


def test_a_finished_job_keeps_none(settled, make_worker, make_conclusion, now):
    word = make_conclusion("Succeeded")
    ended = [make_worker(n, phase="Succeeded", conclusion=word) for n in (0, 1)]
    world = settled(*ended, options=CLUSTER)
    first = decide(world, now)
    assert first.status is not None
    job = world.job.model_copy(update={"status": first.status})
    passive = (*world.passive, BUDGET, POLICY)
    over = Observed(job=job, pods=tuple(ended), passive=passive, written=now, options=CLUSTER)
    assert {gone.ref for gone in decide(over, now).deletes} == set(passive)
