"""Manifests as people write them first for HAMi, gpushare, Volcano and KAI, placed by the real kube-scheduler with the configuration
and the admission policies that are shipped; nothing but the scheduler's name is changed.

The resources and annotations are those of the projects' own first examples; the manifests are written here. K01 and K12 name the
rows of HAMi#1429 and HAMi#43 that a scheduler without the companions in `managedResources` left pending.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from headroom.domain.model import Mode
from simulations.kwok.cluster import Cluster
from simulations.kwok.nodes import Description, uniform_nodes
from tests.paths import DEPLOY

pytestmark = pytest.mark.usefixtures("extender")

CARD_MIB = 81920
A100 = "NVIDIA-A100-SXM4-80GB"
UUIDS = ("GPU-gpu-0000-0", "GPU-gpu-0000-1")


@pytest.fixture(scope="module", autouse=True)
def policies(cluster: Cluster, wait_for_admission: Callable[[Cluster], None]) -> Iterator[None]:
    """The admission policies in force."""
    files = [DEPLOY / "base" / name for name in ("admission-policy.yaml", "admission-fractions.yaml")]
    for file in files:
        cluster.apply(file)
    wait_for_admission(cluster)
    cluster.wait_for(lambda: _turned(cluster), "the policy for fractions to be in force")
    yield
    for file in files:
        cluster.kubectl("delete", "-f", str(file))


def _turned(cluster: Cluster) -> bool:
    probe = manifest("probe", {}, {"gpu-memory": "2000"})
    try:
        pod = cluster.api.request("POST", "/api/v1/namespaces/default/pods", probe, query={"dryRun": "All"})
    except Exception:  # refused until both policies are known
        return False
    return "limits" in pod["spec"]["containers"][0]["resources"]


def manifest(
    name: str, limits: dict[str, str], annotations: dict[str, str] | None = None, **spec: Any
) -> dict[str, Any]:
    resources = {"resources": {"limits": limits}} if limits else {}
    container = {"name": "main", "image": "cuda", "command": ["sleep", "infinity"], **resources}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "annotations": annotations or {}},
        "spec": {
            "schedulerName": "headroom", "terminationGracePeriodSeconds": 0, "containers": [container], **spec,
        },
    }  # fmt: skip


@pytest.mark.parametrize(
    ("slices", "limits", "annotations", "mode", "share_mib", "cards"),
    [
        pytest.param(
            4, {"nvidia.com/gpu": "1", "nvidia.com/gpumem": "3000", "nvidia.com/gpucores": "30"}, {},
            Mode.SLICE, (3000,), None, id="HAMi, the first example: K01 HAMi#1429",
        ),
        pytest.param(
            4, {"nvidia.com/gpu": "2", "nvidia.com/gpumem": "3000", "nvidia.com/gpucores": "30"}, {},
            Mode.SLICE, (3000, 3000), UUIDS, id="HAMi, two devices: K01, K12",
        ),
        pytest.param(
            0, {"nvidia.com/gpumem": "3000", "nvidia.com/gpucores": "30"}, {}, Mode.PINNED, (3000,), None, id="HAMi without a device: K01",
        ),
        pytest.param(
            0, {"nvidia.com/gpumem": "3000", "nvidia.com/priority": "1"}, {}, Mode.PINNED, (3000,), None, id="HAMi, priority: K01 HAMi#43",
        ),
        pytest.param(
            4, {"nvidia.com/gpu": "1", "nvidia.com/gpumem": "3000", "nvidia.com/priority": "1"}, {},
            Mode.SLICE, (3000,), None, id="HAMi, a priority beside a device: K12",
        ),
        pytest.param(
            4, {"nvidia.com/gpu": "1", "nvidia.com/gpumem-percentage": "50", "nvidia.com/gpucores": "30"}, {},
            Mode.SLICE, (CARD_MIB // 2,), None, id="HAMi, a part of the card",
        ),
        pytest.param(
            1, {"nvidia.com/gpu": "2", "nvidia.com/gpumem-percentage": "100", "nvidia.com/gpucores": "100"}, {},
            Mode.SLICE, (CARD_MIB, CARD_MIB), UUIDS, id="HAMi, exclusive cards",
        ),
        pytest.param(
            1, {"nvidia.com/gpu": "2"}, {"nvidia.com/use-gputype": "A100,V100"}, Mode.SLICE, (CARD_MIB, CARD_MIB), UUIDS,
            id="HAMi, the model to use",
        ),
        pytest.param(
            1, {"nvidia.com/gpu": "2"}, {"nvidia.com/nouse-gputype": "1080,2080"}, Mode.SLICE, (CARD_MIB, CARD_MIB), UUIDS,
            id="HAMi, models not to use",
        ),
        pytest.param(
            1, {"nvidia.com/gpu": "1"}, {"nvidia.com/use-gpuuuid": ",".join(UUIDS)}, Mode.SLICE, (CARD_MIB,), None,
            id="HAMi, cards to use",
        ),
        pytest.param(
            0, {"nvidia.com/gpumem": "3000"}, {"nvidia.com/nouse-gpuuuid": UUIDS[0]}, Mode.PINNED, (3000,), UUIDS[1:],
            id="HAMi, cards not to use",
        ),
        pytest.param(
            1, {"nvidia.com/gpu": "1"},
            {"hami.io/node-scheduler-policy": "spread", "hami.io/gpu-scheduler-policy": "binpack"}, Mode.SLICE, (CARD_MIB,), None,
            id="HAMi, scheduling policies",
        ),
        pytest.param(0, {"aliyun.com/gpu-mem": "3"}, {}, Mode.PINNED, (3072,), None, id="gpushare, the user guide's example"),
        pytest.param(0, {"aliyun.com/gpu-mem": "8138"}, {}, Mode.PINNED, (8138,), None, id="gpushare, the samples, in MiB: R11"),
        pytest.param(
            0, {"aliyun.com/gpu-mem": "5", "aliyun.com/gpu-count": "2"}, {}, Mode.PINNED, (5120, 5120), UUIDS,
            id="gpushare, two cards: K01 gpushare#174",
        ),
        pytest.param(
            0, {"aliyun.com/gpu-mem": "8", "aliyun.com/gpu-core.percentage": "30"}, {}, Mode.PINNED, (8192,), None,
            id="gpushare, a part of the compute",
        ),
        pytest.param(
            0, {"volcano.sh/vgpu-number": "2", "volcano.sh/vgpu-memory": "3000", "volcano.sh/vgpu-cores": "50"},
            {"volcano.sh/vgpu-mode": "hami-core"}, Mode.PINNED, (3000, 3000), UUIDS, id="Volcano, two parts of cards",
        ),
        pytest.param(0, {"volcano.sh/vgpu-number": "1"}, {}, Mode.PINNED, (CARD_MIB,), None, id="Volcano, a card"),
        pytest.param(0, {}, {"gpu-fraction": "0.5"}, Mode.PINNED, (CARD_MIB // 2,), None, id="KAI, a fraction: KAI#257"),
        pytest.param(0, {}, {"gpu-memory": "2000"}, Mode.PINNED, (2000,), None, id="KAI, memory: KAI#262"),
        pytest.param(
            0, {}, {"gpu-memory": "2000", "gpu-fraction-num-devices": "2"}, Mode.PINNED, (2000, 2000), UUIDS, id="KAI, of two cards",
        ),
    ],
)  # fmt: skip
def test_first_examples_place(
    cluster: Cluster,
    namespace: str,
    gpu_nodes: Callable[..., None],
    given: Callable[..., list[Any]],
    slices: int,
    limits: dict[str, str],
    annotations: dict[str, str],
    mode: Mode,
    share_mib: tuple[int, ...],
    cards: tuple[str, ...] | None,
) -> None:
    resource = "nvidia.com/gpu" if slices else ""
    nodes = uniform_nodes(1, cards=2, model=A100, vram_mib=CARD_MIB, slices=slices or 1, resource=resource)
    gpu_nodes(nodes, Description.ANNOTATION)
    cluster.apply([manifest("pod", limits, annotations)], namespace)
    (pod,) = given()
    assert (pod.mode, pod.share_mib) == (mode, share_mib)
    assert cards is None or pod.cards == cards
    container = cluster.pods(namespace)[0]["spec"]["containers"][0]
    read = {entry["name"] for entry in container.get("env", [])}
    assert ("NVIDIA_VISIBLE_DEVICES" in read) == (mode is Mode.PINNED)


def test_a_fraction_goes_to_the_container_that_is_named(
    cluster: Cluster, namespace: str, gpu_nodes: Callable[..., None], given: Callable[..., list[Any]]
) -> None:
    """KAI's example with a container that is not the first, and the one with an init container."""
    gpu_nodes(uniform_nodes(1, cards=1, vram_mib=CARD_MIB, resource=""))
    plain = {"image": "busybox", "command": ["sleep", "infinity"]}
    named = manifest("named", {}, {"gpu-fraction": "0.25", "gpu-fraction-container-name": "worker"})
    named["spec"]["containers"] = [{"name": "sidecar", **plain}, {"name": "worker", **plain}]
    first = manifest("first", {}, {"gpu-fraction": ".25", "gpu-fraction-container-name": "warm-up"})
    first["spec"]["initContainers"] = [{"name": "warm-up", **plain}]
    cluster.apply([named, first], namespace)
    assert [pod.share_mib for pod in given(2)] == [(CARD_MIB // 4,)] * 2
    pods = {pod["metadata"]["name"]: pod["spec"] for pod in cluster.pods(namespace)}
    asked = {"limits": {"headroom.dev/gpu-milli": "250"}, "requests": {"headroom.dev/gpu-milli": "250"}}
    assert [one["resources"] for one in pods["named"]["containers"]] == [{}, asked]
    assert [one["resources"] for one in pods["first"]["initContainers"]] == [asked]


@pytest.mark.parametrize(
    ("limits", "annotations", "words"),
    [
        pytest.param({}, {"gpu-fraction": "1.5"}, "gpu-fraction: 1.5", id="more than a card"),
        pytest.param({}, {"gpu-fraction": "0.0"}, "gpu-fraction: 0.0", id="nothing of a card"),
        pytest.param({}, {"gpu-memory": "2Gi"}, "gpu-memory: 2Gi", id="a quantity"),
        pytest.param({}, {"gpu-memory": "2000", "gpu-fraction": "0.5"}, "one of the two", id="both"),
        pytest.param({}, {"gpu-fraction-num-devices": "2"}, "gpu-fraction-num-devices: 2", id="a number of nothing"),
        pytest.param({"nvidia.com/gpu": "1"}, {"gpu-fraction": "0.5"}, "for no card otherwise", id="beside a device"),
        pytest.param(
            {}, {"gpu-fraction": "0.5", "gpu-fraction-container-name": "nobody"}, "gpu-fraction-container-name: nobody", id="nobody",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_turned_is_refused_in_words(
    cluster: Cluster, namespace: str, limits: dict[str, str], annotations: dict[str, str], words: str
) -> None:
    """R15: such a pod would run beside others without being counted."""
    path = f"/api/v1/namespaces/{namespace}/pods"
    with pytest.raises(Exception, match="not turned into resources") as caught:
        cluster.api.request("POST", path, manifest("pod", limits, annotations), query={"dryRun": "All"})
    assert words in str(caught.value)


def test_pods_of_other_schedulers_keep_their_annotations(cluster: Cluster, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/pods"
    for scheduler in ("kai-scheduler", "default-scheduler"):
        body = manifest("pod", {}, {"gpu-fraction": "0.5"}, schedulerName=scheduler)
        stored = cluster.api.request("POST", path, body, query={"dryRun": "All"})
        assert (stored["spec"]["schedulerName"], stored["spec"]["containers"][0]["resources"]) == (scheduler, {})
