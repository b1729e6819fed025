"""Nodes of every kind, asked through the extender's HTTP: what is placed where, and the words of a refusal.

Ids such as S01 and N03 name situations from public reports, which stand beside them.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.apiserver import ApiServer
from tests.fakes.extender import NODES, PODS, Object, extender

A100, L4, T1000 = "NVIDIA-A100-SXM4-80GB", "NVIDIA-L4", "NVIDIA-T1000-8GB"
GPU, VRAM, CARDS = "nvidia.com/gpu", "headroom.dev/vram", "headroom.dev/gpu"
PRODUCT = "nvidia.com/gpu.product"


def gfd(
    product: str = A100, memory: int | None = 81920, count: int = 1, replicas: int = 1, strategy: str = "none"
) -> dict[str, str]:
    labels = {
        PRODUCT: product, "nvidia.com/gpu.count": str(count), "nvidia.com/gpu.replicas": str(replicas),
        "nvidia.com/gpu.sharing-strategy": strategy,
    }  # fmt: skip
    return labels if memory is None else labels | {"nvidia.com/gpu.memory": str(memory)}


def cards(*models: str, gib: int = 80) -> list[Object]:
    return [{"id": f"GPU-{at}", "index": at, "model": model, "vram_mib": gib * 1024} for at, model in enumerate(models)]


def node(
    labels: dict[str, str] | None = None, devices: dict[str, int] | None = None, annotation: list[Object] | None = None
) -> Object:
    return {
        "metadata": {
            "name": "n", "labels": labels or {},
            "annotations": {} if annotation is None else {"headroom.dev/cards": json.dumps(annotation)},
        },
        "spec": {},
        "status": {"allocatable": {"cpu": "64", "memory": "512Gi", **{name: str(number) for name, number in (devices or {}).items()}}},
    }  # fmt: skip


def pod(*containers: dict[str, Any], **spec: Any) -> Object:
    """A pending pod whose containers have these limits."""
    listed = [
        {"name": f"c{at}", "resources": {"limits": {name: str(amount) for name, amount in limits.items()}}}
        for at, limits in enumerate(containers)
    ]
    return {
        "metadata": {"namespace": "default"},
        "spec": {"schedulerName": "headroom", "containers": listed, **spec},
        "status": {},
    }


def selecting(model: str, *containers: dict[str, Any]) -> Object:
    return pod(*containers, nodeSelector={PRODUCT: model})


async def outcomes(tmp_path: Path, node_object: Object, pods: Iterable[Object]) -> list[str]:
    """For each pod in turn: the cards it was given, or why the node refuses it."""
    found = []
    async with ApiServer() as api:
        api.put(NODES, node_object)
        async with extender(api, tmp_path, preemption=False) as running:
            for at, each in enumerate(pods):
                each["metadata"]["name"] = f"p{at}"
                created = await running.create(each)
                answer = await running.filter(created)
                if answer.get("NodeNames"):
                    assert await running.bind(created, "n") == {}
                    annotations = api.get(PODS, f"p{at}")["metadata"].get("annotations", {})
                    found.append(annotations.get("headroom.dev/assigned-cards", "no card"))
                else:
                    found.append(answer["FailedAndUnresolvableNodes"]["n"])
            assert running.daemon.state.breaches() == []
    return found


A10G = node({"headroom.dev/card-model": "NVIDIA-A10G", "headroom.dev/card-vram": "22500Mi"}, {GPU: 4})
GKE_L4 = {"cloud.google.com/gke-accelerator": "nvidia-l4", "cloud.google.com/gke-max-shared-clients-per-gpu": "3"}
MPS = node(gfd(A100 + "-SHARED", replicas=4, strategy="mps"), {GPU: 4})
SLICED = node(gfd(A100 + "-SHARED", replicas=4, strategy="time-slicing"), {GPU: 4})
GB10 = node(gfd("NVIDIA-GB10", None), {GPU: 1})
NOT_OFFERED = "node does not offer nvidia.com/gpu, neither by a device plugin nor by DRA"
UNKNOWN_MEMORY = "the memory of its cards is unknown: label the node headroom.dev/card-vram, or run the agent"


def labelled(base: Object, **labels: str) -> Object:
    copy: Object = json.loads(json.dumps(base))
    copy["metadata"]["labels"].update(
        {key.replace("__", "/").replace("_", "-"): value for key, value in labels.items()}
    )
    return copy


ONE_EACH = {"headroom.dev__fail_requests_greater_than_one": "true"}
SEVERAL = {"headroom.dev__fail_requests_greater_than_one": "false"}


@pytest.mark.parametrize(
    ("node_object", "pods", "expected"),
    [
        # How MPS is
        pytest.param(
            MPS, [pod({GPU: 2}), pod({GPU: 1}), pod({GPU: 1}, {GPU: 1})],
            ["the device plugin gives a container one shared device, not 2", "0", "0,0"],
            id="S01 k8s-device-plugin#929, #1208: one device for each container",
        ),
        pytest.param(labelled(MPS, **SEVERAL), [pod({GPU: 2})], ["0,0"], id="S01: unless the plugin is set otherwise"),
        pytest.param(
            MPS, [pod({GPU: 1, VRAM: "40Gi"}), pod({GPU: 1, VRAM: "20Gi"}), pod({GPU: 1, "headroom.dev/gpu-milli": 500})],
            ["MPS keeps each share below 40960 MiB", "0", "MPS keeps each share below 500 thousandths"],
            id="S02 k8s-device-plugin#764, #1119: each client is limited to its part",
        ),
        pytest.param(
            MPS, [pod({VRAM: "10Gi"}), pod({CARDS: 1})], ["MPS takes its cards for itself: no process outside it gets in"] * 2,
            id="S03 k8s-device-plugin#1655: exclusive compute mode",
        ),
        # Time slices
        pytest.param(SLICED, [pod({GPU: 2})], ["0,0"], id="S04: by default time-slicing gives several"),
        pytest.param(
            labelled(SLICED, **ONE_EACH), [pod({GPU: 2}), pod({GPU: 1}, {GPU: 1})],
            ["the device plugin gives a container one shared device, not 2", "0,0"],
            id="S04 k8s-device-plugin#321: failRequestsGreaterThanOne",
        ),
        pytest.param(
            node({"headroom.dev/card-model": L4, "headroom.dev/card-vram": "22Gi", "cloud.google.com/gke-accelerator": "nvidia-l4",
                  "cloud.google.com/gke-max-shared-clients-per-gpu": "3",
                  "cloud.google.com/gke-gpu-sharing-strategy": "time-sharing"}, {GPU: 3}),
            [pod({GPU: 1, VRAM: "20Gi"})] * 3 + [pod({VRAM: "15Gi"})],
            ["0"] + ["the card that the device plugin will pick has not 20480 MiB free"] * 2 + ["no card with 15360 MiB free"],
            id="N06b k8s-device-plugin#741, terraform-google#12679: three clients share one card",
        ),
        pytest.param(
            A10G, [pod({VRAM: "15Gi"})] * 5, ["0", "1", "2", "3", "no card with 15360 MiB free"],
            id="N06d: four devices and no sign of sharing are four cards",
        ),
        pytest.param(
            labelled(A10G, **{"nvidia.com__gpu.replicas": "4"}), [pod({VRAM: "15Gi"})] * 2, ["0", "no card with 15360 MiB free"],
            id="N06d: one card where a label says so",
        ),
        pytest.param(
            node(GKE_L4, {GPU: 8}), [pod({GPU: 1})],
            ["nvidia.com/gpu.count x cloud.google.com/gke-max-shared-clients-per-gpu and nvidia.com/gpu:"
             " labels and advertised devices contradict each other"], id="GKE: clients that do not divide the devices",
        ),
        pytest.param(
            node(gfd(L4 + "-SHARED", 23034, 1, 16384, "time-slicing"), {GPU: 16384}),
            [pod({GPU: 1, VRAM: "20Gi"}), pod({GPU: 1}), pod({GPU: 1, VRAM: "20Gi"})],
            ["0", "0", "the card that the device plugin will pick has not 20480 MiB free"],
            id="S05 k8s-device-plugin#1433: 16384 replicas",
        ),
        pytest.param(
            labelled(node(gfd(L4 + "-SHARED", 23034, 2, 2, "time-slicing"), {GPU: 4}), **{"headroom.dev__allocation": "spread"}),
            [pod({GPU: 1}), pod({GPU: 2}), pod({GPU: 1, VRAM: "8Gi"})], ["0", "0,1", "1"],
            id="k8s-device-plugin#1936: one pod's devices from as many cards as there are",
        ),
        pytest.param(
            labelled(node(gfd(L4 + "-SHARED", 23034, 2, 2, "time-slicing"), {GPU: 4}), **{"headroom.dev__allocation": "dice"}),
            [pod({GPU: 1, VRAM: "12Gi"}), pod({GPU: 1, VRAM: "12Gi"}), pod({GPU: 1, VRAM: "8Gi"})],
            ["0", "the card that the device plugin will pick has not 12288 MiB free", "0"],
            id="an allocation policy of tomorrow: room on whichever card",
        ),
        # Memory that nobody tells
        pytest.param(
            GB10, [pod({GPU: 1, VRAM: "8Gi"}), pod({VRAM: "8Gi"}), pod({"nvidia.com/gpumem-percentage": 50}), pod({GPU: 1}), pod({GPU: 1})],
            [UNKNOWN_MEMORY] * 3 + ["0", "no free card"],
            id="N01 N03 gpu-operator#1794, KAI#706, HAMi#1511: unified memory goes out whole",
        ),
        pytest.param(
            node(gfd("NVIDIA-GB10-SHARED", None, 1, 4, "time-slicing"), {GPU: 4}), [pod({GPU: 1})] * 5,
            ["0"] * 4 + ["no free time slice"], id="unified memory in slices",
        ),
        pytest.param(
            node(gfd("NVIDIA-GB10", None), annotation=[{"id": "GPU-a", "model": "NVIDIA-GB10"}]),
            [pod({CARDS: 1}), pod({VRAM: "1Mi"})], ["GPU-a", UNKNOWN_MEMORY], id="unified memory, picked by Headroom",
        ),
        pytest.param(
            node({}, {"amd.com/gpu": 8}), [pod({"amd.com/gpu": 8}), pod({"amd.com/gpu": 1})], ["0,1,2,3,4,5,6,7", "no free card"],
            id="N07 ROCm/gpu-operator#183: AMD without labeller",
        ),
        pytest.param(
            node({"amd.com/gpu.product-name": "AMD_Instinct_MI300A"}, {"amd.com/gpu": 4}), [pod({"amd.com/gpu": 1})], ["0"],
            id="MI300A: memory shared with the host",
        ),
        pytest.param(node({}, {"habana.ai/gaudi": 8}), [pod({"habana.ai/gaudi": 1})], ["0"], id="N10 dell/omnia#2312: Gaudi"),
        pytest.param(
            node({"cloud.google.com/gke-tpu-accelerator": "tpu-v3-slice"}, {"google.com/tpu": 4}), [pod({"google.com/tpu": 4})],
            ["0,1,2,3"], id="N11: a TPU that nobody knows",
        ),
        # Several kinds
        pytest.param(
            node(gfd(L4, 23034), {GPU: 1, "amd.com/gpu": 1}, cards(L4, gib=22)),
            [pod({VRAM: "4Gi"}), pod({"amd.com/gpu": 1}), pod({GPU: 1}), pod({VRAM: "4Gi"}), pod({"amd.com/gpu": 1})],
            ["GPU-0", "amd-0", "the device plugin could pick a card that is in use", "GPU-0", "no free card"],
            id="S12 nixpkgs#288037: AMD graphics beside an NVIDIA card",
        ),
        pytest.param(
            node({}, {"amd.com/gpu": 2}), [pod({VRAM: "4Gi"}), pod({CARDS: 1}), pod({GPU: 1})],
            ["only NVIDIA cards can be picked by Headroom"] * 2 + [NOT_OFFERED],
            id="another vendor's devices go out by its plugin alone",
        ),
        pytest.param(
            node(gfd(L4, 23034, 2), {GPU: 7, "amd.com/gpu": 1}), [pod({"amd.com/gpu": 1}), pod({GPU: 1})],
            ["0", NOT_OFFERED + ": nvidia.com/gpu.count x nvidia.com/gpu.replicas and nvidia.com/gpu: 2 x 1 and 7:"
                  " labels and advertised devices contradict each other"],
            id="labels that contradict themselves cost their own kind only",
        ),
        pytest.param(
            {**node(gfd(L4, 23034, 4, 4, "time-slicing")), "status": {
                "allocatable": {GPU: "0", "nvidia.com/gpu.shared": "16"}, "capacity": {GPU: "4", "nvidia.com/gpu.shared": "16"}}},
            [pod({"nvidia.com/gpu.shared": 1}), pod({GPU: 1})], ["0", NOT_OFFERED],
            id="S11 k8s-device-plugin#990: the old name without working devices",
        ),
        pytest.param(
            node(gfd(L4, 23034, 2) | {"nvidia.com/mig.strategy": "mixed"}, {GPU: 2, "nvidia.com/mig-1g.10gb": 0}),
            [pod({GPU: 1}), pod({GPU: 1, VRAM: "4Gi"})], ["0", "1"],
            id="no instance is left of a MIG resource that kubelet still names: 0 of it are no devices",
        ),
        # Names
        pytest.param(
            node(gfd("NVIDIA-GeForce-RTX-3090", 24576, 3), {GPU: 3},
                 cards("NVIDIA-GeForce-RTX-3080", "NVIDIA-GeForce-RTX-3090", "NVIDIA-GeForce-RTX-4090", gib=24)),
            [selecting("NVIDIA-GeForce-RTX-3090", {GPU: 1}), selecting("NVIDIA-GeForce-RTX-3090", {VRAM: "12Gi"})],
            ["the device plugin could pick a card of another model", "GPU-1"],
            id="N12 gfd#66, gpu-operator#334: three models in one node",
        ),
        pytest.param(
            node(gfd("NVIDIA-A100-SXM4-40GB-MIG-1g.5gbme", 4864), {GPU: 1}, cards("NVIDIA-A100-SXM4-40GB-MIG-1g.5gb+me", gib=4)),
            [selecting("NVIDIA-A100-SXM4-40GB-MIG-1g.5gbme", {GPU: 1})], ["GPU-0"],
            id="N14 k8s-device-plugin internal/lm: a plus that no label can hold",
        ),
        pytest.param(
            labelled(node(gfd(A100), {GPU: 1}), **{"headroom.dev__card_model": "A100-80"}), [selecting(A100, {GPU: 1})], ["0"],
            id="N14c: a hand label beside feature discovery's",
        ),
        pytest.param(
            node({PRODUCT: A100}, annotation=cards(T1000, A100)),
            [selecting(A100, {VRAM: "4Gi"}), selecting("NVIDIA-H200", {VRAM: "4Gi"})], ["GPU-1", "card model not allowed"],
            id="instaslice-operator#82: of two models the one asked for",
        ),
        # Cards that are not Headroom's to give
        pytest.param(
            node(gfd(A100, count=2), {GPU: 2}, cards(A100, A100, "NVIDIA-DGX-Display")),
            [pod({GPU: 1, VRAM: "40Gi"}), pod({VRAM: "3Gi"}), pod({VRAM: "80Gi"})], ["GPU-0", "GPU-1", "no card with 81920 MiB free"],
            id="S17 gfd#27: the display card of a DGX Station",
        ),
        pytest.param(
            node(gfd("NVIDIA-A100-SXM4-40GB-MIG-1g.5gb", 4864, 7), {GPU: 7}), [pod({VRAM: "4Gi"}), pod({GPU: 1})],
            ["MIG instances are known by position only; the agent would name them", "0"],
            id="S15 k8s-device-plugin#572: MIG instances by position",
        ),
        pytest.param(
            node(gfd(count=4)), [pod({VRAM: "10Gi"}), pod({GPU: 1})], ["0", NOT_OFFERED],
            id="S16: labels without a device plugin describe cards for pinned mode",
        ),
    ],
)  # fmt: skip
async def test_what_is_placed_and_what_is_refused(
    tmp_path: Path, node_object: Object, pods: list[Object], expected: list[str]
) -> None:
    found = await outcomes(tmp_path, node_object, [json.loads(json.dumps(each)) for each in pods])
    assert found == expected


TOLERANT = {"key": "node.kubernetes.io/unschedulable", "operator": "Exists", "effect": "NoSchedule"}


async def test_a_cordoned_node_takes_pods_that_tolerate_it(tmp_path: Path) -> None:
    """N19: kubernetes#67845, #60163 (a DaemonSet on a cordoned node, which kube-scheduler offers)."""
    cordoned = node(annotation=cards(A100))
    cordoned["spec"]["unschedulable"] = True
    pods = [pod({VRAM: "1Gi"}), pod({VRAM: "1Gi"}, tolerations=[TOLERANT])]
    assert await outcomes(tmp_path, cordoned, pods) == ["node cordoned", "GPU-0"]


async def test_memory_that_becomes_known_is_held_by_the_pods_that_have_the_cards(tmp_path: Path) -> None:
    async with ApiServer() as api:
        api.put(NODES, node(gfd("NVIDIA-GB10", None, 2), {GPU: 2}))
        async with extender(api, tmp_path, preemption=False) as running:
            whole = pod({GPU: 1})
            whole["metadata"]["name"] = "whole"
            await running.place(await running.create(whole))
            assert api.get(PODS, "whole")["metadata"]["annotations"]["headroom.dev/assigned-vram-mib"] == "0"
            api.put(
                NODES, labelled(node(gfd("NVIDIA-GB10", None, 2), {GPU: 2}), **{"headroom.dev__card_vram": "110Gi"})
            )
            await running.caught_up()
            assert running.daemon.state.fleet.held_mib[0, :2].tolist() == [112000, 0]
            api.put(
                PODS, api.get(PODS, "whole") | {"status": {"phase": "Running", "startTime": "2026-01-01T00:00:00Z"}}
            )
            await running.caught_up()
            sized = pod({VRAM: "8Gi"})
            sized["metadata"]["name"] = "sized"
            await running.place(await running.create(sized))
            assert api.get(PODS, "sized")["metadata"]["annotations"]["headroom.dev/assigned-cards"] == "1"
