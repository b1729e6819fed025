"""The network policies of deploy/ name pods and ports that there are, and no mesh stands before the extender."""

from typing import Any

import pytest
import yaml

from tests.paths import DEPLOY

POLICIES = {
    policy["metadata"]["name"]: policy["spec"]
    for policy in yaml.safe_load_all((DEPLOY / "components" / "network-policies" / "network-policies.yaml").read_text())
}
NAME = {"app.kubernetes.io/name": "headroom"}  # kustomize sets it on everything


def template(name: str) -> dict[str, Any]:
    for document in yaml.safe_load_all((DEPLOY / "base" / f"{name}.yaml").read_text()):
        if document["kind"] in ("Deployment", "DaemonSet"):
            found: dict[str, Any] = document["spec"]["template"]
            return found
    raise AssertionError(name)


@pytest.mark.parametrize("name", ["scheduler", "autoscaler", "agent"])
def test_each_daemon_has_a_policy_for_its_pods_and_ports(name: str) -> None:
    policy, pod = POLICIES[f"headroom-{name}"], template(name)
    labels = pod["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"].items() <= (labels | NAME).items()
    ports = {port["name"] for container in pod["spec"]["containers"] for port in container["ports"]}
    assert {port["port"] for rule in policy["ingress"] for port in rule["ports"]} == ports


def test_the_autoscaler_reaches_the_extender() -> None:
    (rule,) = [rule for rule in POLICIES["headroom-scheduler"]["ingress"] if rule["ports"][0]["port"] == "extender"]
    selectors = [peer["podSelector"]["matchLabels"] for peer in rule["from"] if "podSelector" in peer]
    labels = template("autoscaler")["metadata"]["labels"] | NAME
    assert any(selector.items() <= labels.items() for selector in selectors)


def test_the_extenders_pod_is_in_no_mesh() -> None:
    """Case s15: what a sidecar hands over comes from an address of the pod itself."""
    meta = template("scheduler")["metadata"]
    assert meta["labels"]["sidecar.istio.io/inject"] == "false"
    assert meta["labels"]["istio.io/dataplane-mode"] == "none"
    assert meta["annotations"]["linkerd.io/inject"] == "disabled"
