"""The chart in deploy/chart with helm 3 and helm 4, on a real API server."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from simulations.kwok.cluster import Cluster
from simulations.kwok.helm import HELM_3, HELM_4
from tests.chart import CHART, Helm
from tests.paths import DEPLOY
from tools import write_base

EXISTING = DEPLOY / "overlays" / "existing-scheduler"
OTHER = "gpu-sharing"
EVERYTHING = (
    "namespace.create=true",
    "admission=policy",
    "visibleDevices=Deny",
    "image.digest=sha256:" + "0" * 64,
    "imagePullSecrets[0].name=registry",
    "agent.runtimeClassName=nvidia",
    "prometheus.url=http://prometheus.monitoring:9090",
    "prometheus.secret=prometheus-token",
    "networkPolicies.enabled=true",
    "networkPolicies.nodeCidrs[0]=10.0.0.0/24",
)

Object = dict[str, Any]


class ChartHelm(Helm):
    """One version of helm that makes objects of the chart."""

    def objects(self, *values: str, namespace: str = "headroom-system") -> list[Object]:
        """What the chart makes of some values, for Kubernetes 1.36."""
        known = ["--kube-version=v1.36.3", "--api-versions=admissionregistration.k8s.io/v1/MutatingAdmissionPolicy"]
        flags = [flag for value in values for flag in ("--set", value)]
        text = self("template", "headroom", str(CHART), f"--namespace={namespace}", *known, *flags)
        return [item for item in yaml.safe_load_all(text) if item]


@pytest.fixture(scope="module", params=[HELM_3, HELM_4], ids=["helm3", "helm4"])
def helm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ChartHelm:
    """Both versions that are in use."""
    return ChartHelm(request.param, tmp_path_factory.mktemp("helm"))


def squeezed(value: Object) -> str:
    """Without what white space differs: kustomize folds long lines anew."""
    return "".join(json.dumps(value, sort_keys=True).replace("\\n", "").split())


def named(objects: list[Object], kind: str) -> dict[str, Object]:
    return {item["metadata"]["name"]: item for item in objects if item["kind"] == kind}


def test_the_linter_has_nothing_to_say(helm: ChartHelm) -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", str(CHART))


def test_the_kustomize_base_is_what_the_chart_says(helm: ChartHelm) -> None:
    assert write_base.differences(write_base.rendered(helm.path)) == [], "run `make base`"


@pytest.mark.parametrize(
    "values", [(), EVERYTHING, ("scheduler.mode=existing", *EVERYTHING)], ids=["as it comes", "all", "existing"]
)
def test_the_api_server_takes_every_object(
    cluster: Cluster, helm: ChartHelm, tmp_path: Path, values: tuple[str, ...]
) -> None:
    objects = helm.objects(*values, namespace=OTHER)
    cluster.kubectl("create", "namespace", OTHER)
    try:
        (tmp_path / "objects.yaml").write_text(yaml.safe_dump_all(objects))
        cluster.kubectl(
            "apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", str(tmp_path / "objects.yaml")
        )
    finally:
        cluster.kubectl("delete", "namespace", OTHER)


def test_no_object_of_another_namespace_names_the_usual_one(helm: ChartHelm) -> None:
    """Guards that name accounts of a namespace where nobody is guard nothing."""
    for item in helm.objects(*EVERYTHING, "prometheus.rules.enabled=true", namespace=OTHER):
        settings = item["kind"] == "ConfigMap"  # comments of settings may name it
        assert settings or "headroom-system" not in json.dumps(item), item["metadata"]["name"]


def test_the_scheduler_that_is_there_gets_what_the_overlay_gives_it(cluster: Cluster, helm: ChartHelm) -> None:
    """The overlay and the chart's `existing` are written apart; they must mean the same."""
    overlay = [item for item in yaml.safe_load_all(cluster.kubectl("kustomize", str(EXISTING))) if item]
    chart = helm.objects("scheduler.mode=existing", "namespace.create=true", "admission=policy")

    def kinds(objects: list[Object]) -> set[tuple[str, str]]:
        of_helm = ("headroom-test", "headroom-clean-nodes")
        return {
            (item["kind"], item["metadata"]["name"])
            for item in objects
            if item["kind"] != "ConfigMap" and item["metadata"]["name"] not in of_helm
        }

    assert kinds(chart) == kinds(overlay)
    spec, same = (
        named(objects, "DaemonSet")["headroom-scheduler"]["spec"]["template"]["spec"] for objects in (chart, overlay)
    )
    for part in ("hostNetwork", "dnsPolicy", "priorityClassName", "tolerations"):
        assert spec[part] == same[part]
    for policy in ("headroom-pods", "headroom-fractions"):
        ours, theirs = (named(objects, "MutatingAdmissionPolicy")[policy]["spec"] for objects in (chart, overlay))
        assert squeezed(ours) == squeezed(theirs)


def test_the_network_policies_are_those_of_the_component(helm: ChartHelm) -> None:
    """Written apart as well. The chart's `helm test` is a caller more."""
    values = ("networkPolicies.enabled=true", "networkPolicies.nodeCidrs[0]=192.0.2.0/24")
    chart = named(helm.objects(*values), "NetworkPolicy")
    text = (DEPLOY / "components" / "network-policies" / "network-policies.yaml").read_text()
    callers = chart["headroom-scheduler"]["spec"]["ingress"][0]["from"]
    callers.remove(
        {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "headroom", "app.kubernetes.io/component": "test"}}}
    )
    component = named([*yaml.safe_load_all(text)], "NetworkPolicy")
    assert {name: one["spec"] for name, one in chart.items()} == {name: one["spec"] for name, one in component.items()}


def test_what_node_autoscaling_needs_is_that_of_the_component_and_is_there_only_if_asked_for(helm: ChartHelm) -> None:
    """Written apart as well. Off is the default, rights included."""
    names = {"headroom-placeholder", "headroom-placeholders"}

    def parts(objects: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
        found = {item["kind"]: item for item in objects if item["metadata"]["name"] in names}
        for item in found.values():
            labels = item["metadata"].pop("labels")
            item["metadata"] |= {key: value for key, value in labels.items() if key.startswith("pod-security")}
        return found

    folder = DEPLOY / "components" / "node-autoscaling"
    component = parts([*yaml.safe_load_all((folder / "node-autoscaling.yaml").read_text())])
    assert set(component) == {"Namespace", "PriorityClass", "Role", "RoleBinding"}
    assert parts(helm.objects("nodeAutoscaling.enabled=true")) == component
    assert parts(helm.objects()) == {}
    settings = named(helm.objects("nodeAutoscaling.enabled=true"), "ConfigMap")["headroom-scheduler-settings"]["data"]
    assert yaml.safe_load(settings["scheduler.yaml"])["placeholder_namespace"] == "headroom-placeholders"


def test_without_mutating_policies_the_chart_leaves_them_out(helm: ChartHelm) -> None:
    older = helm("template", "headroom", str(CHART), "--kube-version=v1.34.1")
    assert "kind: MutatingAdmissionPolicy" not in older
    assert "kube-scheduler:v1.34.1" in older
    assert "kind: ValidatingAdmissionPolicy" in older
    assert "AdmissionPolicy" not in {item["kind"][-15:] for item in helm.objects("admission=off")}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("scheduler.mod=own", "mod"),
        ("scheduler.mode=second", "mode"),
        ("admission=yes", "admission"),
        ("prometheus.url=prometheus:9090", "url"),
        ("image.digest=latest", "digest"),
        ("scheduler.replicas=0", "replicas"),
        ("prometheus.podMonitors.engines[0].name=vllm", "matchLabels"),
    ],
)
def test_a_value_that_is_wrong_is_refused_by_name(helm: ChartHelm, value: str, said: str) -> None:
    done = helm.attempt("template", "headroom", str(CHART), "--set", value)
    assert done.returncode != 0
    assert said in done.stderr


def test_settings_reach_the_daemons_and_restart_them(helm: ChartHelm) -> None:
    def of(*values: str) -> tuple[Object, str]:
        objects = helm.objects(*values)
        settings = named(objects, "ConfigMap")["headroom-scheduler-settings"]["data"]["scheduler.yaml"]
        pods = named(objects, "Deployment")["headroom-scheduler"]["spec"]["template"]
        return yaml.safe_load(settings), pods["metadata"]["annotations"]["headroom.dev/settings"]

    plain, before = of()
    changed, after = of("prometheus.url=http://p:9090", "scheduler.settings.policy=best-fit")
    assert plain == {"lease_namespace": "headroom-system", "prometheus_url": ""}
    assert changed == {"lease_namespace": "headroom-system", "prometheus_url": "http://p:9090", "policy": "best-fit"}
    assert before != after


def test_monitors_find_the_daemons_and_the_engines(helm: ChartHelm) -> None:
    values = [
        "prometheus.podMonitors.enabled=true",
        "prometheus.podMonitors.labels.release=kube-prometheus-stack",
        "prometheus.podMonitors.engines[0].name=vllm",
        "prometheus.podMonitors.engines[0].matchLabels.app=vllm",
        "prometheus.podMonitors.engines[0].port=http",
        "prometheus.rules.enabled=true",
    ]
    objects = helm.objects(*values)
    monitors = named(objects, "PodMonitor")
    assert set(monitors) == {"headroom-scheduler", "headroom-autoscaler", "headroom-agent", "headroom-engine-vllm"}
    assert all(one["metadata"]["labels"]["release"] == "kube-prometheus-stack" for one in monitors.values())
    pods = {**named(objects, "Deployment"), **named(objects, "DaemonSet")}
    for name in ("headroom-scheduler", "headroom-autoscaler", "headroom-agent"):
        template = pods[name]["spec"]["template"]
        labels = template["metadata"]["labels"]
        assert monitors[name]["spec"]["selector"]["matchLabels"].items() <= labels.items()
        ports = {port["name"] for container in template["spec"]["containers"] for port in container["ports"]}
        assert monitors[name]["spec"]["podMetricsEndpoints"][0]["port"] in ports
    rules = yaml.safe_load((DEPLOY / "base" / "alerts.yaml").read_text())
    assert named(objects, "PrometheusRule")["headroom"]["spec"] == rules


@pytest.fixture
def own_cluster(start_cluster: Callable[..., Cluster]) -> Cluster:
    """Without anything of Headroom's: helm refuses to take over a CRD that somebody else installed."""
    return start_cluster(without=("kwok", "kube-scheduler"))


@pytest.fixture
def installed(own_cluster: Cluster, helm: ChartHelm) -> list[str]:
    """The chart installed in a namespace of another name; what to say to helm for it."""
    where = [f"--namespace={OTHER}", f"--kubeconfig={own_cluster.kubeconfig}"]
    # Nobody runs pods here: the hook that cleans nodes would wait for ever.
    helm("install", "headroom", str(CHART), "--create-namespace", "--set=uninstall.cleanNodes=false", *where)
    return where


def test_install_upgrade_rollback_and_uninstall(own_cluster: Cluster, helm: ChartHelm, installed: list[str]) -> None:
    def replicas() -> int:
        found: int = own_cluster.api.get(f"/apis/apps/v1/namespaces/{OTHER}/deployments/headroom-scheduler")["spec"][
            "replicas"
        ]
        return found

    assert replicas() == 2
    scaler = {
        "apiVersion": "headroom.dev/v1alpha1",
        "kind": "InferenceAutoscaler",
        "metadata": {"name": "kept", "namespace": "default"},
        "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "x"}, "maxReplicas": 3},
    }
    own_cluster.apply([scaler], "default")
    helm("upgrade", "headroom", str(CHART), "--reuse-values", "--set=scheduler.replicas=3", *installed)
    assert replicas() == 3
    helm("rollback", "headroom", "1", *installed)
    assert replicas() == 2
    helm("uninstall", "headroom", *installed)
    assert not own_cluster.exists(f"/apis/apps/v1/namespaces/{OTHER}/deployments/headroom-scheduler")
    assert not own_cluster.exists(
        "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/headroom-assignments"
    )
    assert "kept" in own_cluster.kubectl("get", "inferenceautoscalers", "-n", "default", "-o", "name")
