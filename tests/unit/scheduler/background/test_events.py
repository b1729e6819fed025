"""Events on pods whose written assignment is not what they ask for, and on pods that others put onto held cards."""

import json
from pathlib import Path
from typing import Any

from tests.fakes.apiserver import ApiServer
from tests.fakes.extender import GIB, NODES, PODS, Running, extender, node, pod

EVENTS = "/apis/events.k8s.io/v1/events"


def told(api: ApiServer) -> list[tuple[str, str]]:
    events = [ask.body for ask in api.asked("POST", "/events$")]
    return [(event["regarding"]["name"], event["note"]) for event in events if event["reason"] == "AssignmentDisagrees"]


def forged(name: str, vram: str, mib: int) -> dict[str, Any]:
    """A pod that its author put on the node, with an assignment of his own."""
    body = pod(name, vram=vram, nodeName="gpu")
    written = {"cards": "gpu-gpu0", "vram-mib": str(mib), "mode": "pinned"}
    body["metadata"]["annotations"] = {f"headroom.dev/assigned-{key}": text for key, text in written.items()}
    return body | {"status": {"phase": "Running"}}


async def free_gib(running: Running) -> float:
    await running.caught_up()
    return float(running.daemon.state.fleet.free_mib[0, 0]) / GIB


async def test_a_forged_assignment_is_told_once_and_counts_for_nothing(tmp_path: Path) -> None:
    """Cases s04, L18, K14: a share made small by its owner."""
    async with ApiServer() as api:
        api.put(NODES, node("gpu", 80))
        api.put(PODS, forged("before", "20Gi", 1))
        async with extender(api, tmp_path) as running:
            await running.until(lambda: len(told(api)) == 1)
            api.put(PODS, forged("hog", "30Gi", 2))
            assert await free_gib(running) == 30
            await running.until(lambda: len(told(api)) == 2)
            for _ in range(3):
                api.put(PODS, api.get(PODS, "hog"))
            assert await free_gib(running) == 30
            words = "headroom.dev/assigned-vram-mib: 2: the pod asks for 30720 MiB of each card"
            assert told(api)[-1] == ("hog", f"{words}; the larger of what is written and what is asked for counts")
            assert json.loads((await running.get("/v1/explain?pod=default/hog"))[1]) == {
                "pod": "default/hog",
                "problem": words,
            }
            assert await running.metric("headroom_pods_in_disagreement") == 2
            assert await running.metric("headroom_objects_not_understood_total", kind="pod") == 2
            api.put(PODS, forged("hog", "30Gi", 30 * GIB))
            assert await free_gib(running) == 30
            assert await running.metric("headroom_pods_in_disagreement") == 1
            assert len(told(api)) == 2


async def test_a_pod_of_another_scheduler_on_a_held_card_is_told(tmp_path: Path) -> None:
    """s36: 150 of 80 GiB, because the default scheduler sees a free `nvidia.com/gpu` where Headroom has pinned a pod."""
    async with ApiServer() as api:
        api.put(NODES, node("gpu", 80))
        async with extender(api, tmp_path) as running:
            await running.place(await running.create(pod("llm", vram="70Gi")))
            train = pod("train", gpus=1, schedulerName="default-scheduler", nodeName="gpu")
            api.put(PODS, train)
            await running.caught_up()
            for _ in range(3):
                api.put(PODS, api.get(PODS, "train"))
            await running.until(lambda: bool(overfilled(api)))
            await running.caught_up()
            words = "card gpu-gpu0 of node gpu holds 153600 of 81920 MiB with this pod; another scheduler put it there"
            assert [(name, note.startswith(words)) for name, note in overfilled(api)] == [("train", True)]
            assert await running.metric("headroom_over_committed_cards") == 1


def overfilled(api: ApiServer) -> list[tuple[str, str]]:
    events = [ask.body for ask in api.asked("POST", "/events$")]
    return [(event["regarding"]["name"], event["note"]) for event in events if event["reason"] == "CardsOverfilled"]
