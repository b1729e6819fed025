"""Headroom from its own image and manifests, as docs/install.md says, on a real node. See docs/testing.md."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from simulations.node.cluster import NodeCluster
from simulations.node.images.headroom import build, write_kube_scheduler
from tests.image.deployed import PROMETHEUS_URL, Deployed
from tests.paths import DEPLOY


class BetaNodeCluster(NodeCluster):
    """One whose API server serves the beta of MutatingAdmissionPolicy beside version 1, for overlays/mutation-v1beta1."""

    api_flags = ("--runtime-config=admissionregistration.k8s.io/v1beta1=true",)


@pytest.fixture(scope="session")
def image() -> Path:
    """The image's archive."""
    return build()


@pytest.fixture(scope="session")
def node(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeCluster]:
    """A node with Prometheus that knows the image."""
    scheduler = tmp_path_factory.mktemp("images") / "kube-scheduler.tar"
    with BetaNodeCluster.start(prometheus=True) as running:
        write_kube_scheduler(scheduler, running.binaries / "kube-scheduler")
        for archive in (image, scheduler):
            running.import_image(archive)
        yield running


def my_cluster(folder: Path, resource: str, *components: str) -> Path:
    """A kustomization of one's own, as docs/install.md tells to make: `resource` is a folder below deploy/, `components` are of its own."""
    shutil.copytree(DEPLOY, folder / "deploy")
    own = folder / "my-cluster"
    own.mkdir()
    (own / "scheduler.yaml").write_text(
        yaml.safe_dump({"lease_namespace": "headroom-system", "prometheus_url": PROMETHEUS_URL})
    )
    hasty = {"tick_seconds": 1.0, "stale_seconds": 6.0, "short_mean_seconds": 4.0, "long_mean_seconds": 8.0}
    (own / "autoscaler.yaml").write_text(yaml.safe_dump({"prometheus_url": PROMETHEUS_URL, **hasty}))
    generators = [
        {
            "name": f"headroom-{name}-settings", "namespace": "headroom-system", "behavior": "replace",
            "files": [f"{name}.yaml"],
        }
        for name in ("scheduler", "autoscaler")
    ]  # fmt: skip
    if resource == "overlays/existing-scheduler":  # it brings settings of its own
        generators = generators[1:]
    content = {"resources": [f"../deploy/{resource}"], "configMapGenerator": generators}
    if components:
        content["components"] = [f"../deploy/components/{name}" for name in components]
    (own / "kustomization.yaml").write_text(yaml.safe_dump(content))
    return own


@pytest.fixture(scope="module")
def deployed(node: NodeCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """deploy/base on the node."""
    with Deployed(node, my_cluster(tmp_path_factory.mktemp("base"), "base")) as running:
        running.wait_ready(
            "deployment/headroom-scheduler", "deployment/headroom-autoscaler", "daemonset/headroom-agent"
        )
        yield running
