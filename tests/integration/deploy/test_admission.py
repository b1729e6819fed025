"""The MutatingAdmissionPolicy: who is sent to the Headroom scheduler, and which environment a container gets."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from headroom import names
from simulations.kwok.cluster import Cluster
from tests.paths import DEPLOY

POLICY = DEPLOY / "base" / "admission-policy.yaml"
CARDS, MIB, SHARE = "NVIDIA_VISIBLE_DEVICES", "HEADROOM_VRAM_MIB", "HEADROOM_VRAM_SHARE"
PINNED = {
    CARDS: names.ANNOTATION_ASSIGNED_CARDS,
    MIB: names.ANNOTATION_ASSIGNED_VRAM_MIB,
    SHARE: names.ANNOTATION_ASSIGNED_VRAM_SHARE,
}
SLICED = {name: annotation for name, annotation in PINNED.items() if name != CARDS}


@pytest.fixture(scope="module", autouse=True)
def policy(cluster: Cluster, wait_for_admission: Callable[[Cluster], None]) -> Iterator[None]:
    """The policy in force."""
    cluster.apply(POLICY)
    wait_for_admission(cluster)
    yield
    cluster.kubectl("delete", "-f", str(POLICY))


def admit(cluster: Cluster, namespace: str, pod: dict[str, Any]) -> dict[str, Any]:
    """The pod as the API server would store it."""
    path = f"/api/v1/namespaces/{namespace}/pods"
    admitted: dict[str, Any] = cluster.api.request("POST", path, pod, query={"dryRun": "All"})
    return admitted


def asking(limits: dict[str, str], name: str = "main", **fields: Any) -> dict[str, Any]:
    return {"name": name, "image": "server", "resources": {"limits": limits}, **fields}


def pod_with(*containers: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"metadata": {"name": "pod"}, "spec": {"containers": list(containers), **fields}}


def annotations_read(container: dict[str, Any]) -> dict[str, str]:
    """Environment variable -> annotation it is read from."""
    prefix, suffix = "metadata.annotations['", "']"
    paths = {
        item["name"]: item["valueFrom"]["fieldRef"]["fieldPath"]
        for item in container.get("env", [])
        if "valueFrom" in item
    }
    return {
        name: path.removeprefix(prefix).removesuffix(suffix) for name, path in paths.items() if path.startswith(prefix)
    }


@pytest.mark.parametrize(
    ("limits", "environment"),
    [
        pytest.param({"headroom.dev/vram": "20Gi"}, PINNED, id="memory alone: Headroom pins the card"),
        pytest.param({"headroom.dev/gpu-milli": "300"}, PINNED, id="thousandths alone"),
        pytest.param({"headroom.dev/gpu": "2"}, PINNED, id="whole cards of Headroom's choice"),
        pytest.param({"nvidia.com/gpumem": "3000"}, PINNED, id="HAMi MiB alone"),
        pytest.param({"nvidia.com/gpumem-percentage": "25"}, PINNED, id="HAMi percent alone"),
        pytest.param({"aliyun.com/gpu-mem": "4"}, PINNED, id="gpushare GiB"),
        pytest.param({"nvidia.com/gpu": "1", "headroom.dev/vram": "8Gi"}, SLICED, id="slice plus memory"),
        pytest.param(
            {"nvidia.com/gpu.shared": "1", "headroom.dev/vram": "8Gi"}, SLICED, id="renamed slice plus memory"
        ),
        pytest.param({"nvidia.com/gpu": "2", "nvidia.com/gpumem": "3000"}, SLICED, id="HAMi, two devices"),
    ],
)
def test_a_pod_that_asks_for_part_of_a_card(
    cluster: Cluster, namespace: str, limits: dict[str, str], environment: dict[str, str]
) -> None:
    pod = admit(cluster, namespace, pod_with(asking(limits), {"name": "sidecar", "image": "proxy"}))
    assert pod["spec"]["schedulerName"] == names.SCHEDULER_NAME
    main, sidecar = pod["spec"]["containers"]
    assert annotations_read(main) == environment
    assert "env" not in sidecar


@pytest.mark.parametrize("limits", [{}, {"nvidia.com/gpu": "1"}, {"cpu": "1"}], ids=["nothing", "a whole card", "cpu"])
def test_a_pod_that_does_not_is_left_alone(cluster: Cluster, namespace: str, limits: dict[str, str]) -> None:
    pod = admit(cluster, namespace, pod_with(asking(limits)))
    assert pod["spec"]["schedulerName"] == "default-scheduler"
    assert "env" not in pod["spec"]["containers"][0]


def test_the_authors_own_values_win(cluster: Cluster, namespace: str) -> None:
    own = [
        {"name": CARDS, "value": "all"},
        {"name": SHARE, "value": "0.5"},
        {"name": "CACHE", "value": "/cache/$(HEADROOM_VRAM_MIB)"},
    ]
    container = asking({"headroom.dev/vram": "20Gi"}, env=own)
    pod = admit(cluster, namespace, pod_with(container, schedulerName="other"))
    assert pod["spec"]["schedulerName"] == "other"
    environment = pod["spec"]["containers"][0]["env"]
    assert [item["name"] for item in environment] == [MIB, CARDS, SHARE, "CACHE"], (
        "ours first: values may refer to them"
    )
    assert environment[1:] == own


def test_init_containers_learn_their_card_too(cluster: Cluster, namespace: str) -> None:
    init = asking({"headroom.dev/vram": "20Gi"}, name="warm-up", env=[])
    pod = admit(cluster, namespace, pod_with({"name": "main", "image": "server"}, initContainers=[init]))
    assert pod["spec"]["schedulerName"] == names.SCHEDULER_NAME
    assert annotations_read(pod["spec"]["initContainers"][0]) == PINNED
    assert "env" not in pod["spec"]["containers"][0]


def test_one_container_with_a_device_makes_the_whole_pod_sliced(cluster: Cluster, namespace: str) -> None:
    device = asking({"nvidia.com/gpu": "1"}, name="device")
    memory = asking({"headroom.dev/vram": "8Gi"}, name="memory")
    pod = admit(cluster, namespace, pod_with(device, memory))
    assert annotations_read(pod["spec"]["containers"][1]) == SLICED
