"""The chart, rendered by Helm and shown to the API server."""

import pytest

from chart import CHART, HelmError, helm, render
from reknit_operator.kube.options import parse_options

WRITES = {"create", "update", "patch", "delete", "deletecollection"}


def of_kind(items, kind):
    return [item for item in items if item["kind"] == kind]


def container(items):
    (deployment,) = of_kind(items, "Deployment")
    (only,) = deployment["spec"]["template"]["spec"]["containers"]
    return only


def test_helm_finds_no_fault():
    assert "0 chart(s) failed" in helm("lint", "--strict", str(CHART))


def test_the_definition_outlives_the_release():
    (crd,) = of_kind(render(), "CustomResourceDefinition")
    assert crd["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert of_kind(render("crds.install=false"), "CustomResourceDefinition") == []


def test_the_cluster_is_served_unless_namespaces_are_named():
    options = parse_options(container(render())["args"])
    assert options.namespaces is None
    assert options.build.coordinator_clients == ("reknit-system",)
    assert options.build.disruption_budgets
    assert options.lease is None
    few = render("namespaces={a,b}")
    assert parse_options(container(few)["args"]).namespaces == ("a", "b")
    assert [item["metadata"]["namespace"] for item in of_kind(few, "Role")] == ["a", "b"]
    aggregated = [item["metadata"]["name"] for item in of_kind(few, "ClusterRole")]
    assert aggregated == ["reknit-view", "reknit-edit"]


def test_every_value_reaches_the_operator():
    items = render(
        "image.repository=r/op,image.digest=sha256:" + "a" * 64,
        "runtimeImage.tag=v9",
        "jobs.networkPolicy.metricsNamespaces={monitoring}",
        "jobs.disruptionBudget.enabled=false",
        "leaderElection.enabled=true,replicas=2",
        "logLevel=DEBUG",
    )
    made = container(items)
    options = parse_options(made["args"])
    assert made["image"] == options.build.coordinator_image == "r/op@sha256:" + "a" * 64
    assert options.build.image == "reknit/runtime:v9"
    assert options.build.coordinator_clients == ("reknit-system", "monitoring")
    assert not options.build.disruption_budgets
    assert options.lease == ("reknit-system", "reknit")
    assert options.log_level == "DEBUG"


def test_several_operators_need_an_election():
    with pytest.raises(HelmError, match=r"needs leaderElection\.enabled"):
        render("replicas=2")


def test_monitors_need_their_types():
    wanted = ("metrics.serviceMonitor.enabled=true", "metrics.podMonitor.enabled=true")
    with pytest.raises(HelmError, match="install it first"):
        render(*wanted)
    items = render(*wanted, monitoring=True)
    (service,) = of_kind(items, "Service")
    (monitor,) = of_kind(items, "ServiceMonitor")
    assert (
        monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    )
    assert monitor["spec"]["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]
    assert len(of_kind(items, "PodMonitor")) == 1


def test_the_dashboard_is_found_by_the_sidecar():
    (board,) = of_kind(render("metrics.dashboards.enabled=true"), "ConfigMap")
    assert board["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert '"uid": "reknit"' in board["data"]["reknit.json"]


def test_the_operator_may_do_no_more_than_it_needs():
    (role, *_) = [item for item in of_kind(render(), "ClusterRole") if item["rules"]]
    may = {
        (resource, verb)
        for rule in role["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert not any("*" in words for words in may)
    changed = {resource for resource, verb in may if verb in ("update", "patch")}
    assert changed == {
        "distributedtrainingjobs/status",
        "distributedtrainingjobs/finalizers",
        "events",
    }
    created = {resource for resource, verb in may if verb == "create"}
    assert "distributedtrainingjobs" not in created
    assert "deletecollection" not in {verb for _, verb in may}


async def test_the_api_server_takes_everything(api):
    """As a dry run, in a namespace with restricted pod security."""
    metadata = {"name": "reknit-system"}
    metadata["labels"] = {"pod-security.kubernetes.io/enforce": "restricted"}
    await api.call("POST", "/api/v1/namespaces", {"metadata": metadata})
    paths = {
        "ServiceAccount": "/api/v1/namespaces/reknit-system/serviceaccounts",
        "Service": "/api/v1/namespaces/reknit-system/services",
        "ConfigMap": "/api/v1/namespaces/reknit-system/configmaps",
        "Deployment": "/apis/apps/v1/namespaces/reknit-system/deployments",
        "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles",
        "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
        "Role": "/apis/rbac.authorization.k8s.io/v1/namespaces/reknit-system/roles",
        "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/namespaces/reknit-system/rolebindings",
    }
    settings = ("metrics.dashboards.enabled=true", "leaderElection.enabled=true")
    items = render(*settings, release="other")
    for item in items:
        if item["kind"] != "CustomResourceDefinition":
            await api.call(
                "POST", paths[item["kind"]], item, dryRun="All", fieldValidation="Strict"
            )
    (deployment,) = of_kind(items, "Deployment")
    pod = deployment["spec"]["template"] | {"apiVersion": "v1", "kind": "Pod"}
    pod["metadata"]["name"] = "operator"
    await api.call("POST", "/api/v1/namespaces/reknit-system/pods", pod, dryRun="All")
