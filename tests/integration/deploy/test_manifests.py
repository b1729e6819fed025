"""The manifests of deploy/ against a real API server: they apply, twice, and mean what they say."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from headroom import names
from simulations.kwok.cluster import Cluster
from tests.paths import DEPLOY

BASE = DEPLOY / "base"
EXISTING = DEPLOY / "overlays" / "existing-scheduler"


def rendered(cluster: Cluster, folder: Path) -> list[dict[str, Any]]:
    return [item for item in yaml.safe_load_all(cluster.kubectl("kustomize", str(folder))) if item]


def pod_templates(objects: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    kinds = ("Deployment", "DaemonSet", "StatefulSet", "Job")
    return {item["metadata"]["name"]: item["spec"]["template"]["spec"] for item in objects if item["kind"] in kinds}


@pytest.fixture
def installed(cluster: Cluster) -> Iterator[None]:
    """deploy/base on the shared cluster, taken away afterwards."""
    yield
    cluster.kubectl("delete", "-k", str(BASE), "--ignore-not-found", "--wait=false")
    cluster.wait_for(lambda: not cluster.exists("/api/v1/namespaces/headroom-system"), "the namespace to go")


@pytest.mark.usefixtures("installed")
def test_base_applies_server_side_and_a_second_apply_changes_nothing(cluster: Cluster) -> None:
    cluster.apply(BASE)
    kinds = {item["kind"] for item in rendered(cluster, BASE)}
    assert {"Deployment", "MutatingAdmissionPolicy", "PodDisruptionBudget", "ClusterRole"} <= kinds
    changes = cluster.kubectl("diff", "--server-side", "--force-conflicts", "-k", str(BASE))
    assert changes == ""


@pytest.mark.parametrize("folder", [BASE, EXISTING], ids=["base", "existing-scheduler"])
def test_every_manifest_passes_the_api_servers_validation(cluster: Cluster, folder: Path) -> None:
    cluster.apply(BASE / "namespace.yaml")
    cluster.kubectl("apply", "--server-side", "--dry-run=server", "--validate=strict", "-k", str(folder))


@pytest.mark.parametrize("folder", [BASE, EXISTING], ids=["base", "existing-scheduler"])
def test_containers_cannot_write_their_images_nor_gain_rights(cluster: Cluster, folder: Path) -> None:
    for name, pod in pod_templates(rendered(cluster, folder)).items():
        for container in pod["containers"]:
            security = container["securityContext"]
            where = f"{name}/{container['name']}"
            assert security["readOnlyRootFilesystem"], where
            assert security["allowPrivilegeEscalation"] is False, where
            assert security["capabilities"]["drop"] == ["ALL"], where
            assert container["livenessProbe"], where
            assert container["readinessProbe"], where
            assert container["resources"]["requests"], where
    scheduler = pod_templates(rendered(cluster, folder))["headroom-scheduler"]
    assert scheduler["securityContext"]["runAsNonRoot"]


def test_the_overlay_runs_the_extender_alone_and_keeps_scheduler_names(cluster: Cluster) -> None:
    objects = rendered(cluster, EXISTING)
    pod = pod_templates(objects)["headroom-scheduler"]
    assert [container["name"] for container in pod["containers"]] == ["extender"]
    roles = {
        item["roleRef"]["name"]
        for item in objects
        if item["kind"].endswith("RoleBinding")
        and any(subject["name"] == "headroom-scheduler" for subject in item["subjects"])
    }
    assert roles == {"headroom-extender", "headroom-extender-lease"}
    policies = {item["metadata"]["name"]: item for item in objects if item["kind"] == "MutatingAdmissionPolicy"}
    policy = policies["headroom-pods"]
    assert not any("schedulerName" in item["jsonPatch"]["expression"] for item in policy["spec"]["mutations"])
    assert "== 'default-scheduler'" in policies["headroom-fractions"]["spec"]["matchConditions"][0]["expression"]
    assert any(names.ANNOTATION_ASSIGNED_CARDS in item["expression"] for item in policy["spec"]["variables"])


def test_the_overlays_extender_is_that_of_base() -> None:
    base = yaml.safe_load((BASE / "kube-scheduler.yaml").read_text())
    overlay = yaml.safe_load((EXISTING / "extender.yaml").read_text())
    assert overlay["extenders"] == base["extenders"]
    assert overlay["percentageOfNodesToScore"] == base["percentageOfNodesToScore"]
