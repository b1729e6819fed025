"""Pods in the words of other schedulers, asked through the extender's HTTP, and pods that those schedulers placed.

Ids such as R02 and L10 name situations from public reports, which stand beside them.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.apiserver import ApiServer
from tests.fakes.extender import NODES, PODS, Object, Running, extender

EVENTS = "/apis/events.k8s.io/v1/events"
A100, T1000, L4 = "NVIDIA-A100-SXM4-80GB", "NVIDIA-T1000-8GB", "NVIDIA-L4"
GPU, GPUMEM, ALIYUN = "nvidia.com/gpu", "nvidia.com/gpumem", "aliyun.com/gpu-mem"


def node(name: str, *cards: tuple[str, int], devices: dict[str, str] | None = None, **labels: str) -> Object:
    """A node whose cards have these models and GiB."""
    listed = [
        {"id": f"GPU-{name}-{at}", "index": at, "model": model, "vram_mib": gib * 1024}
        for at, (model, gib) in enumerate(cards)
    ]
    return {
        "metadata": {"name": name, "labels": labels, "annotations": {"headroom.dev/cards": json.dumps(listed)}},
        "spec": {},
        "status": {"allocatable": {"cpu": "64", "memory": "512Gi", **(devices or {})}},
    }


def pod(name: str, limits: dict[str, str], *, annotations: dict[str, str] | None = None, **spec: Any) -> Object:
    container = {"name": "main", "resources": {"limits": limits, "requests": limits}}
    return {
        "metadata": {"name": name, "namespace": "default", "annotations": annotations or {}},
        "spec": {"schedulerName": "headroom", "containers": [container], **spec},
        "status": {"phase": "Pending"},
    }


async def place(running: Running, body: Object) -> str:
    """The cards a pod was given, or why each node refuses it."""
    created = await running.create(body)
    answer = await running.filter(created)
    if not answer.get("NodeNames"):
        return "; ".join(sorted(set(answer["FailedAndUnresolvableNodes"].values())))
    (chosen,) = answer["NodeNames"]
    assert await running.bind(created, chosen) == {}
    annotations = running.api.get(PODS, body["metadata"]["name"])["metadata"]["annotations"]
    return str(annotations.get("headroom.dev/assigned-cards", "no card"))


@pytest.mark.parametrize(
    ("nodes", "limits", "annotations", "expected"),
    [
        pytest.param(
            [node("small", (T1000, 8)), node("big", (A100, 80))], {GPUMEM: "3000"}, {"nvidia.com/use-gputype": "A100"},
            "GPU-big-0", id="R02 HAMi#707: the model that is wanted",
        ),
        pytest.param(
            [node("small", (T1000, 8)), node("big", (A100, 80))], {GPUMEM: "3000"}, {"nvidia.com/use-gputype": "nvidia a100"},
            "GPU-big-0", id="R02: as HAMi spells it",
        ),
        pytest.param(
            [node("big", (A100, 80)), node("small", (T1000, 8))], {GPUMEM: "3000"}, {"nvidia.com/nouse-gputype": "T1000,V100"},
            "GPU-big-0", id="R02: models that are not wanted",
        ),
        pytest.param(
            [node("big", (A100, 80))], {GPUMEM: "3000"}, {"nvidia.com/use-gputype": "\u30ab\u30fc\u30c9"},
            "no card that the pod's annotations accept", id="R02: a word that no model's name can hold",
        ),
        pytest.param(
            [node("big", (A100, 80))], {GPUMEM: "3000"}, {"nvidia.com/nouse-gputype": "\u30ab\u30fc\u30c9"},
            "GPU-big-0", id="R02: such a word rules nothing out",
        ),
        pytest.param(
            [node("small", (T1000, 8))], {GPUMEM: "3000"}, {"nvidia.com/use-gputype": "A100"},
            "no card that the pod's annotations accept", id="R02: none of them",
        ),
        pytest.param(
            [node("n", (A100, 80), (A100, 80))], {GPUMEM: "3000"}, {"nvidia.com/use-gpuuuid": "GPU-n-1"},
            "GPU-n-1", id="R04 HAMi#958, #361: the card that is named",
        ),
        pytest.param(
            [node("n", (A100, 80), (A100, 80))], {GPUMEM: "3000"}, {"nvidia.com/nouse-gpuuuid": "GPU-n-0"},
            "GPU-n-1", id="R04: any but the card that is named",
        ),
        pytest.param(
            [node("n", (A100, 80), (A100, 80), devices={GPU: "2"})], {GPU: "1", GPUMEM: "3000"}, {"nvidia.com/use-gpuuuid": "GPU-n-1"},
            "the device plugin could pick a card that the pod's annotations do not accept", id="R04: where the device plugin picks",
        ),
        pytest.param(
            [node("n", (A100, 80), (A100, 80), devices={GPU: "2"})], {GPU: "2", GPUMEM: "3000"},
            {"nvidia.com/use-gpuuuid": "GPU-n-1,GPU-n-0"}, "GPU-n-0,GPU-n-1", id="R04: where it can pick no other",
        ),
        pytest.param(
            [node("n", (A100, 80)), node("mig", (A100 + "-MIG-3g.40gb", 40))], {GPUMEM: "3000"}, {"nvidia.com/vgpu-mode": "mig"},
            "GPU-mig-0", id="vgpu-mode mig",
        ),
        pytest.param(
            [node("mig", (A100 + "-MIG-3g.40gb", 40)), node("n", (A100, 80))], {GPUMEM: "3000"}, {"nvidia.com/vgpu-mode": "hami-core"},
            "GPU-n-0", id="vgpu-mode hami-core",
        ),
        pytest.param(
            [node("n", (A100, 80))], {GPUMEM: "3000"}, {"hami.io/gpu-scheduler-policy": "topology-aware"},
            "pod default/p: annotation hami.io/gpu-scheduler-policy: topology-aware: Headroom knows binpack, spread and mutex",
            id="a policy that Headroom does not have",
        ),
        pytest.param(
            [node("n", (A100, 80))], {"cpu": "1"}, {"gpu-memory": "2000"},
            "pod default/p: annotation gpu-memory: 2000: Headroom's admission policy, which turns it into headroom.dev/vram,"
            " has not seen this pod",
            id="R15 KAI#257, #262: KAI's annotations without the admission policy",
        ),
        pytest.param(
            [node("n", ("NVIDIA-GeForce-RTX-3070", 8), devices={ALIYUN: "8192", "aliyun.com/gpu-count": "1"})], {ALIYUN: "3000"}, {},
            "GPU-n-0", id="R11 gpushare#16, #217, #56: a cluster that counts MiB",
        ),
        pytest.param(
            [node("n", (A100, 8), (A100, 8))], {ALIYUN: "5", "aliyun.com/gpu-count": "2"}, {}, "GPU-n-0,GPU-n-1",
            id="R13 gpushare#174: so much on each of two cards",
        ),
    ],
)  # fmt: skip
async def test_pods_in_other_schedulers_words(
    tmp_path: Path, nodes: list[Object], limits: dict[str, str], annotations: dict[str, str], expected: str
) -> None:
    async with ApiServer() as api:
        for each in nodes:
            api.put(NODES, json.loads(json.dumps(each)))
        async with extender(api, tmp_path, preemption=False, naming_ahead=False) as running:
            assert await place(running, pod("p", limits, annotations=annotations)) == expected
            assert running.daemon.state.breaches() == []


async def test_a_pod_may_ask_for_the_emptiest_node_and_card(tmp_path: Path) -> None:
    spread = {"hami.io/node-scheduler-policy": "spread", "hami.io/gpu-scheduler-policy": "spread"}
    async with ApiServer() as api:
        for name in ("a", "b"):
            api.put(NODES, node(name, (L4, 24), (L4, 24)))
        async with extender(api, tmp_path, preemption=False, naming_ahead=False) as running:
            spreading = [await place(running, pod(f"s{at}", {GPUMEM: "3000"}, annotations=spread)) for at in range(4)]
            assert spreading == ["GPU-a-0", "GPU-b-0", "GPU-a-1", "GPU-b-1"]
            packing = [await place(running, pod(f"p{at}", {GPUMEM: "3000"})) for at in range(3)]
            assert len(set(packing)) == 1, "others go by the policy"
            by_node = {"hami.io/node-scheduler-policy": "spread", "hami.io/gpu-scheduler-policy": "binpack"}
            other = await place(running, pod("n", {GPUMEM: "3000"}, annotations=by_node))
            assert other[:5] != packing[0][:5]


async def test_a_pod_may_ask_for_a_card_that_nobody_holds(tmp_path: Path) -> None:
    mutex = {"hami.io/gpu-scheduler-policy": "mutex"}
    async with ApiServer() as api:
        api.put(NODES, node("n", (L4, 24), (L4, 24)))
        async with extender(api, tmp_path, preemption=False, naming_ahead=False) as running:
            assert await place(running, pod("a", {GPUMEM: "3000"})) == "GPU-n-0"
            assert await place(running, pod("b", {GPUMEM: "3000"}, annotations=mutex)) == "GPU-n-1"
            refused = await place(running, pod("c", {GPUMEM: "3000"}, annotations=mutex))
            assert refused == "no card that the pod's annotations accept"


async def test_what_has_no_effect_is_told_by_an_event_and_explained(tmp_path: Path) -> None:
    """R05 (HAMi#2862): a size written as an annotation; R01 (HAMi#1429): cores."""
    async with ApiServer() as api:
        api.put(NODES, node("n", (A100, 80), devices={GPU: "1"}))
        async with extender(api, tmp_path, preemption=False, naming_ahead=False) as running:
            body = pod("p", {GPU: "1", "nvidia.com/gpucores": "30"}, annotations={GPUMEM: "4000"})
            created = await running.create(body)
            status, text = await running.get("/v1/explain?pod=default/p")
            assert status == 200
            told = json.loads(text)["without_effect"]
            assert [line.split(":")[0] for line in told] == ["annotation nvidia.com/gpumem", "nvidia.com/gpucores"]
            await running.until(lambda: bool(api.all(EVENTS)))
            (event,) = api.all(EVENTS)
            assert (event["reason"], event["regarding"]["uid"]) == ("RequestPartlyIgnored", created["metadata"]["uid"])
            assert all(line in event["note"] for line in told)
            # Once, however often the pod is shown.
            for label in ("a", "b"):
                body["metadata"]["labels"] = {"seen": label}
                api.put(PODS, body)
            await running.caught_up()
            assert len(api.all(EVENTS)) == 1


async def test_the_unit_of_gpushare_is_learnt_when_a_node_comes(tmp_path: Path) -> None:
    """R11 (gpushare#16): the pod was there before the first node that tells the unit."""
    async with ApiServer() as api:
        api.put(NODES, node("plain", (L4, 24)))
        async with extender(api, tmp_path, preemption=False, naming_ahead=False) as running:
            created = await running.create(pod("p", {ALIYUN: "3000"}))
            small = await running.create(pod("small", {ALIYUN: "800"}))
            entry, other = (running.daemon.state.pods.entries[each["metadata"]["uid"]] for each in (created, small))
            assert (entry.request.vram_mib, other.request.vram_mib) == (3000, 800 * 1024)
            api.put(NODES, node("old", (L4, 24), devices={ALIYUN: "24576", "aliyun.com/gpu-count": "1"}))
            await running.caught_up()
            assert (entry.request.vram_mib, other.request.vram_mib) == (3000, 800)
            # Another node that counts otherwise: nobody can say what is meant.
            api.put(NODES, node("odd", (L4, 24), devices={ALIYUN: "24", "aliyun.com/gpu-count": "1"}))
            await running.caught_up()
            refused = await running.filter(created)
            assert "--gpushare-unit" in next(iter(refused["FailedAndUnresolvableNodes"].values()))
            api.remove(NODES, "odd")
            await running.caught_up()
            assert (await running.filter(created))["NodeNames"]


# While a cluster moves


def foreign(limits: dict[str, str], scheduler: str, annotations: dict[str, str], name: str = "old") -> Object:
    """A pod that another scheduler placed on node n."""
    body = pod(name, limits, annotations=annotations, nodeName="n")
    body["spec"]["schedulerName"] = scheduler
    body["status"] = {"phase": "Running", "startTime": "2026-01-01T00:00:00Z"}
    return body


GPUSHARE = foreign({ALIYUN: "6"}, "default-scheduler", {"ALIYUN_COM_GPU_MEM_IDX": "1", "ALIYUN_COM_GPU_MEM_POD": "6"})
HAMI = foreign({GPUMEM: "70000"}, "hami-scheduler", {"hami.io/vgpu-devices-allocated": "GPU-n-1,NVIDIA,70000,0:;"})
KAI = foreign({GPU: "1"}, "kai-scheduler", {"run.ai/reserve_for_gpu_index": "GPU-n-1"})


@pytest.mark.parametrize(
    ("gib", "old", "setting", "held_mib"),
    [
        pytest.param(8, GPUSHARE, ("gpushare",), [0, 6144], id="L10 gpushare: the card by its index"),
        pytest.param(80, HAMI, ("hami",), [0, 70000], id="L11 HAMi: the card by its UUID"),
        pytest.param(80, KAI, ("kai",), [0, 81920], id="KAI: the whole card of a reservation pod"),
        pytest.param(80, KAI, ("kai=other",), [81920, 0], id="pods of the named scheduler only"),
        pytest.param(80, HAMI, (), [70000, 0], id="not without the setting"),
        pytest.param(
            80, foreign({GPUMEM: "70000"}, "hami-scheduler", {"hami.io/vgpu-devices-allocated": "GPU-n-1,NVIDIA,1,0:;"}),
            ("hami",), [0, 70000], id="never less than the pod asks for",
        ),
        pytest.param(
            80, foreign({GPUMEM: "3000"}, "hami-scheduler", {"hami.io/vgpu-devices-allocated": "GPU-n-1,NVIDIA,9000,0:;"}),
            ("hami",), [0, 9000], id="nor less than the record says",
        ),
        pytest.param(
            80, foreign({GPU: "1"}, "hami-scheduler", {"hami.io/vgpu-devices-allocated": "GPU-n-1,NVIDIA,82000,0:;"}),
            ("hami",), [0, 81920], id="HAMi counts what the driver keeps",
        ),
        pytest.param(
            80, foreign({GPUMEM: "70000"}, "hami-scheduler", {"hami.io/vgpu-devices-allocated": "GPU-n-1"}),
            ("hami",), [70000, 0], id="a record that cannot be read",
        ),
    ],
)  # fmt: skip
async def test_records_of_the_scheduler_that_a_cluster_moves_from(
    tmp_path: Path, gib: int, old: Object, setting: tuple[str, ...], held_mib: list[int]
) -> None:
    async with ApiServer() as api:
        api.put(NODES, node("n", (A100, gib), (A100, gib)))
        api.put(PODS, json.loads(json.dumps(old)))
        async with extender(api, tmp_path, preemption=False, naming_ahead=False, foreign_records=setting) as running:
            state = running.daemon.state
            assert state.fleet.held_mib[0, :2].tolist() == held_mib
            free = held_mib.index(0)
            assert await place(running, pod("new", {"headroom.dev/vram": f"{gib - 1}Gi"})) == f"GPU-n-{free}"
            readable = "hami.io" not in str(old) or "," in old["metadata"]["annotations"].get(
                "hami.io/vgpu-devices-allocated", ","
            )
            assert bool(state.news.problems) == (not readable)
            assert state.breaches() == []


async def test_an_unknown_family_of_records_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="foreign_records: 'slurm': not one of hami, gpushare, kai"):
        async with ApiServer() as api, extender(api, tmp_path, foreign_records=("slurm",)):
            pass
