"""The agent's cycle with a scripted driver, against an API server over HTTP and a kubelet over gRPC."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from agent.cards.reader import BrokenCard, CardReading, Fault, Missing, ProcessUse, Reading
from agent.cards.scripted import Frame, ScriptedReader
from agent.cycle import Agent, OutOfReachError, follow
from agent.energy.books import Account
from agent.energy.tariff import Tariff
from agent.metrics import AgentMetrics
from agent.pods.index import NodePod
from agent.pods.podresources import PodResources
from agent.pods.processes import ProcessTable
from agent.pods.reconcile import Device
from agent.settings import AgentSettings
from headroom import wire
from headroom.daemon.pages import Health
from headroom.domain.links import Links
from headroom.kube.aio import connect
from tests.fakes.apiserver import ApiServer
from tests.fakes.kubelet import Kubelet
from tests.waiting import turns, until

GIB = 2**30
NODES, PODS = "/api/v1/nodes", "/api/v1/pods"
NODE = {"metadata": {"name": "n1", "labels": {"nvidia.com/gpu.replicas": "4"}}}


def card(index: int, **fields: Any) -> CardReading:
    defaults: dict[str, Any] = {
        "memory_total_bytes": 24 * GIB, "memory_reserved_bytes": 0, "memory_used_bytes": 0, "energy_millijoules": 0,
        "utilization_ratio": 0.0, "power_watts": 20.0, "ecc_uncorrected": 0, "processes": (),
    }  # fmt: skip
    return CardReading(f"GPU-{index}", index, "L4", **(defaults | fields))


CARDS = (card(0), card(1))


def pod(name: str, *, cards: str | None = None, **fields: Any) -> dict[str, Any]:
    annotations = {} if cards is None else {
        "headroom.dev/assigned-cards": cards, "headroom.dev/assigned-vram-mib": "6144", "headroom.dev/assigned-mode": "slice",
    }  # fmt: skip
    return {
        "metadata": {"name": name, "namespace": "chat", "uid": f"uid-{name}", "annotations": annotations,
                     "labels": {"headroom.dev/project": "search"}},
        "spec": {"nodeName": "n1", "containers": [
            {"name": "engine", "resources": {"limits": {"nvidia.com/gpu": "1", "headroom.dev/vram": "6Gi"}}}]},
        "status": {"phase": "Running", "startTime": "2026-01-01T00:00:00Z"} | fields,
    }  # fmt: skip


class Script(ScriptedReader):
    """A scripted driver that can be made to hang."""

    hang: Callable[[float], None] | None = None

    def read(self, now: float) -> Reading:
        if self.hang is not None:
            self.hang(now)
        return super().read(now)


class World:
    """One agent and all it talks to; `tick` is one cycle, five seconds after the last."""

    def __init__(self, api: ApiServer, kubelet: Kubelet, reader: "Script", tmp_path: Path) -> None:
        self.api, self.kubelet, self.reader, self.tmp_path = api, kubelet, reader, tmp_path
        self.now = 1000.0
        self.registry = CollectorRegistry()
        self.health = Health(self.registry)

    async def start(self, **settings: Any) -> None:
        options: dict[str, Any] = {"node": "n1", "settle_seconds": 30.0} | settings
        self.settings = AgentSettings(**options)
        self.kube = await connect(str(self.api.write_kubeconfig(self.tmp_path / "kubeconfig")))
        self.podresources = PodResources(str(self.kubelet.socket), timeout_seconds=0.5)
        account = Account(longest_gap_seconds=30.0)
        metrics = AgentMetrics(self.registry, node="n1", account=account, tariff=Tariff(budgets={"search": 100.0}))
        self.agent = Agent(
            self.settings, self.reader, account=account, metrics=metrics, health=self.health, podresources=self.podresources,
            processes=ProcessTable(self.tmp_path / "proc"), monotonic=lambda: self.now, wall=lambda: self.now,
        )  # fmt: skip
        self.cluster = follow(self.kube, self.settings, metrics, self.agent.pod_event)
        self.agent.attach(self.cluster)
        self.tasks = [asyncio.create_task(self.cluster.node.run()), asyncio.create_task(self.cluster.pods.run())]

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.podresources.close()
        await self.kube.close()

    async def synced(self) -> None:
        await self.cluster.node.wait_synced()
        await self.cluster.pods.wait_synced()

    async def tick(self, times: int = 1, seconds: float = 5.0) -> None:
        for _ in range(times):
            self.now += seconds
            await self.agent.cycle()
            await self.caught_up()

    async def caught_up(self) -> None:
        """Until the caches show what the API server holds."""
        await until(self._shows_all)

    def _shows_all(self) -> bool:
        seen: list[wire.Node | NodePod] = [*self.cluster.node.items().values(), *self.cluster.pods.items().values()]
        there = [item for item in (*self.api.all(NODES), *self.api.all(PODS)) if self._mine(item)]
        known = sorted(one.metadata.resource_version for one in seen)
        return known == sorted(one["metadata"]["resourceVersion"] for one in there)

    @staticmethod
    def _mine(item: dict[str, Any]) -> bool:
        return item["metadata"]["name"] == "n1" or item.get("spec", {}).get("nodeName") == "n1"

    def show(self, *cards: CardReading, **fields: Any) -> None:
        self.reader.show(Frame(cards=cards, **fields))

    def published(self) -> dict[str, bool]:
        text = self.api.get(NODES, "n1")["metadata"].get("annotations", {}).get("headroom.dev/cards", "[]")
        return {entry["id"]: entry["healthy"] for entry in json.loads(text)}

    def writes(self) -> int:
        return sum(request.method != "GET" for request in self.api.requests)

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)

    def place(self, index: int) -> dict[str, str]:
        return {"node": "n1", "card": f"GPU-{index}", "model": "L4"}

    def annotation(self, name: str) -> str:
        return self.api.get(PODS, name, "chat")["metadata"]["annotations"].get("headroom.dev/assigned-cards", "")


@asynccontextmanager
async def world_at(tmp_path: Path, **settings: Any) -> AsyncIterator[World]:
    async with ApiServer() as api, Kubelet(tmp_path / "kubelet.sock") as kubelet:
        api.put(NODES, json.loads(json.dumps(NODE)))
        api.put(NODES, {"metadata": {"name": "other"}})
        one = World(api, kubelet, Script((Frame(cards=CARDS),)), tmp_path)
        await one.start(**settings)
        try:
            await one.synced()
            yield one
        finally:
            await one.stop()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with world_at(tmp_path) as one:
        yield one


async def test_cards_are_published_once_and_nothing_is_written_while_nothing_changes(world: World) -> None:
    await world.tick()
    assert world.published() == {"GPU-0": True, "GPU-1": True}
    assert json.loads(world.api.get(NODES, "n1")["metadata"]["annotations"]["headroom.dev/cards"])[0]["slices"] == 4
    await world.tick(20)
    assert world.writes() == 1
    assert world.health.ready


async def test_a_sick_card_is_withdrawn_in_the_same_cycle_and_back_after_the_settled_time(world: World) -> None:
    await world.tick()
    world.show(card(1), broken=(BrokenCard(0, "lost", "GPU-0"),))
    await world.tick()
    assert world.published() == {"GPU-0": False, "GPU-1": True}
    assert world.value("headroom_card_healthy", **world.place(0)) == 0
    assert world.value("headroom_agent_card_withdrawals_total", reason="lost") == 1
    assert world.value("headroom_agent_broken_cards", reason="lost") == 1
    world.show(*CARDS)
    await world.tick(5)
    assert world.published()["GPU-0"] is False
    await world.tick(1)
    assert world.published()["GPU-0"] is True
    assert world.writes() == 3


async def test_a_fault_that_the_driver_reports_withdraws_its_card(world: World) -> None:
    await world.tick()
    world.show(*CARDS, faults=(Fault("GPU-1", 79), Fault("GPU-0", 31)))
    await world.tick()
    assert world.published() == {"GPU-0": True, "GPU-1": False}
    assert world.value("headroom_agent_card_faults_total", xid="79") == 1


async def test_a_lost_driver_withdraws_everything_and_exports_no_old_values(world: World) -> None:
    await world.tick(2)
    assert world.value("headroom_card_memory_used_bytes", **world.place(0)) == 0
    world.reader.show(Frame(driver_lost="NVML: Driver Not Loaded"))
    world.now += 5
    assert await world.agent.cycle() is False
    assert world.published() == {"GPU-0": False, "GPU-1": False}
    assert world.value("headroom_card_memory_used_bytes", **world.place(0)) is None
    assert world.value("headroom_agent_driver_up") == 0
    assert world.value("headroom_agent_readings_total", result="failed") == 1
    assert not world.health.ready
    world.show(*CARDS)
    await world.tick(7)
    assert world.published() == {"GPU-0": True, "GPU-1": True}
    assert world.health.ready


async def test_links_are_published_on_change_and_taken_away_when_they_cannot_be_told(world: World) -> None:
    """What is known of the cards themselves does not depend on it."""

    def links() -> str | None:
        found: str | None = world.api.get(NODES, "n1")["metadata"]["annotations"].get("headroom.dev/links")
        return found

    world.show(*CARDS, links=Links(("GPU-0", "GPU-1"), (("NV4",),)))
    await world.tick(3)
    assert json.loads(links() or "") == {"cards": ["GPU-0", "GPU-1"], "paths": ["NV4"]}
    writes = world.writes()
    await world.tick(5)
    assert world.writes() == writes
    world.show(driver_lost="NVML: gone")
    await world.tick()
    assert links() is not None
    world.show(*CARDS, links_problem="how far GPU-0 is from GPU-1 is not told")
    await world.tick(2)
    assert links() is None
    assert set(world.published()) == {"GPU-0", "GPU-1"}


async def test_an_agent_that_starts_without_a_driver_withdraws_what_its_predecessor_published(tmp_path: Path) -> None:
    async with world_at(tmp_path) as world:
        await world.tick()
    async with ApiServer() as api, Kubelet(tmp_path / "kubelet2.sock") as kubelet:
        api.put(NODES, json.loads(json.dumps(world.api.get(NODES, "n1"))))
        later = World(api, kubelet, Script((Frame(driver_lost="no driver"),)), tmp_path)
        await later.start()
        await later.synced()
        assert await later.agent.cycle() is False
        assert later.published() == {"GPU-0": False, "GPU-1": False}
        await later.stop()


async def test_an_agent_without_a_driver_and_without_a_past_writes_nothing(world: World) -> None:
    world.reader.show(Frame(driver_lost="no driver"))
    await world.agent.cycle()
    assert world.writes() == 0


async def test_a_misprediction_is_corrected_told_and_counted_once(world: World) -> None:
    """A pod is on GPU-1, so that the plugin's rule leads to GPU-0; it gives GPU-1 all the same."""
    there = pod("there", cards="GPU-1")
    there["metadata"]["annotations"]["headroom.dev/kubelet-cards"] = "GPU-1"
    world.api.put(PODS, there)
    world.api.put(PODS, pod("server", cards="GPU-0"))
    world.kubelet.devices = [
        Device("chat", "there", "engine", "nvidia.com/gpu", "GPU-1::0"),
        Device("chat", "server", "engine", "nvidia.com/gpu", "GPU-1::2"),
    ]
    await world.caught_up()
    await world.tick(3)
    assert world.annotation("server") == "GPU-1"
    assert len(world.api.asked("PATCH", "/pods/server")) == 1
    (event,) = world.api.all("/apis/events.k8s.io/v1/events")
    assert (event["reason"], event["regarding"]["uid"], event["type"]) == ("CardMispredicted", "uid-server", "Warning")
    assert "GPU-1, predicted was GPU-0" in event["note"]
    assert world.value("headroom_agent_assignments_total", finding="corrected") == 1
    assert world.value("headroom_agent_assignments_total", finding="right") == 1


async def test_a_tie_is_no_misprediction(world: World) -> None:
    world.api.put(PODS, pod("server", cards="GPU-0"))
    world.kubelet.devices = [Device("chat", "server", "engine", "nvidia.com/gpu", "GPU-1::2")]
    await world.caught_up()
    await world.tick(3)
    assert world.annotation("server") == "GPU-1"
    (event,) = world.api.all("/apis/events.k8s.io/v1/events")
    assert (event["reason"], event["type"]) == ("CardsSettled", "Normal")
    assert world.value("headroom_agent_assignments_total", finding="tie") == 1
    assert world.value("headroom_agent_assignments_total", finding="corrected") is None


async def test_kubelets_word_is_told_as_soon_as_a_pod_has_started(world: World) -> None:
    """By the watch, not by the next cycle: the scheduler keeps room for the pod on other cards meanwhile."""
    await world.tick()
    world.kubelet.devices = [Device("chat", "server", "engine", "nvidia.com/gpu", "GPU-1::2")]
    teller = asyncio.create_task(world.agent.tell_at_once())
    world.api.put(PODS, pod("server", cards="GPU-1"))
    await until(
        lambda: "headroom.dev/kubelet-cards" in world.api.get(PODS, "server", "chat")["metadata"]["annotations"]
    )
    teller.cancel()
    assert world.api.get(PODS, "server", "chat")["metadata"]["annotations"]["headroom.dev/kubelet-cards"] == "GPU-1"


async def test_the_node_says_that_its_agent_tells(world: World) -> None:
    await world.tick()
    assert world.api.get(NODES, "n1")["metadata"]["annotations"]["headroom.dev/agent-tells"] == "kubelet-cards"


async def test_a_right_prediction_is_counted_and_confirmed_once(world: World) -> None:
    world.api.put(PODS, pod("server", cards="GPU-1"))
    world.kubelet.devices = [Device("chat", "server", "engine", "nvidia.com/gpu", "GPU-1::2")]
    await world.caught_up()
    await world.tick(3)
    assert world.value("headroom_agent_assignments_total", finding="right") == 1
    assert len(world.api.asked("PATCH", "/pods/")) == 1
    assert world.api.all("/apis/events.k8s.io/v1/events") == []


async def test_a_pod_that_headroom_never_saw_gets_the_same_annotations(world: World) -> None:
    world.api.put(PODS, pod("stranger"))
    world.kubelet.devices = [Device("chat", "stranger", "engine", "nvidia.com/gpu", "GPU-0::0")]
    await world.caught_up()
    await world.tick(2)
    annotations = world.api.get(PODS, "stranger", "chat")["metadata"]["annotations"]
    assert annotations == {
        "headroom.dev/assigned-cards": "GPU-0", "headroom.dev/assigned-vram-mib": "6144",
        "headroom.dev/assigned-vram-share": "0.250", "headroom.dev/assigned-mode": "slice",
        "headroom.dev/kubelet-cards": "GPU-0",
    }  # fmt: skip
    (event,) = world.api.all("/apis/events.k8s.io/v1/events")
    assert (event["reason"], event["type"]) == ("CardsReported", "Normal")
    assert world.value("headroom_agent_assignments_total", finding="reported") == 1


async def test_a_correction_never_reaches_a_successor_of_the_same_name(world: World) -> None:
    world.api.put(PODS, pod("server", cards="GPU-0"))
    world.kubelet.devices = [Device("chat", "server", "engine", "nvidia.com/gpu", "GPU-1::2")]
    await world.caught_up()
    world.now += 5
    world.agent._refresh_pods()  # the agent knows the first pod; the second one is there before it writes
    world.api.remove(PODS, "server", "chat")
    successor = pod("server", cards="GPU-0")
    successor["metadata"]["uid"] = "uid-successor"
    world.api.put(PODS, successor)
    await world.agent.cycle()
    assert world.annotation("server") == "GPU-0"
    assert world.value("headroom_agent_writes_total", object="pod", result="Conflict") == 1


async def test_a_failed_write_is_tried_again_later(world: World) -> None:
    world.api.fail("PATCH", "/nodes/n1", status=500, times=2)
    await world.tick()
    assert world.published() == {}
    await world.tick(4)
    assert world.published() == {"GPU-0": True, "GPU-1": True}
    assert world.value("headroom_agent_writes_total", object="node", result="ServerError") == 2


async def test_somebody_who_keeps_overwriting_is_not_fought_in_a_tight_loop(world: World) -> None:
    await world.tick()
    for _ in range(20):
        node = json.loads(json.dumps(world.api.get(NODES, "n1")))
        node["metadata"]["annotations"]["headroom.dev/cards"] = "[]"
        world.api.put(NODES, node)
        await world.caught_up()
        await world.tick(seconds=1.0)
    assert 1 < len(world.api.asked("PATCH", "/nodes/n1")) <= 12


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (lambda kubelet: kubelet.stop(), "missing"),
        (lambda kubelet: _set(kubelet, delay_seconds=3.0), "slow"),
        (lambda kubelet: _set(kubelet, garbage=True), "broken"),
    ],
)
async def test_a_silent_kubelet_is_counted_and_what_it_said_last_still_holds(
    world: World, break_it: Any, reason: str
) -> None:
    """Nothing is written on the pod, so that kubelet's word is all that is known of its card."""
    world.api.put(PODS, pod("server"))
    world.api.fail("PATCH", "/pods/server", status=500, times=99)
    world.kubelet.devices = [Device("chat", "server", "engine", "nvidia.com/gpu", "GPU-1::2")]
    await world.caught_up()
    await world.tick()
    await break_it(world.kubelet)
    await world.tick(2)
    assert world.value("headroom_agent_podresources_errors_total", reason=reason) == 2
    assert world.published() == {"GPU-0": True, "GPU-1": True}
    reserved = world.value(
        "headroom_pod_reserved_seconds_total", **world.place(1), namespace="chat", pod="server", project="search"
    )
    assert reserved == pytest.approx(10 * 6144 / 24576)


async def _set(kubelet: Kubelet, **fields: Any) -> None:
    for key, value in fields.items():
        setattr(kubelet, key, value)


async def test_memory_and_energy_are_exported_by_card_and_by_pod_apart(world: World) -> None:
    world.api.put(PODS, pod("server", cards="GPU-0"))
    await world.caught_up()
    busy = card(
        0, memory_used_bytes=9 * GIB, utilization_ratio=0.5, energy_millijoules=0,
        processes=(ProcessUse(1, 6 * GIB, 0.4, pod_uid="uid-server"), ProcessUse(2, 2 * GIB, 0.1, pod_uid="uid-nobody")),
    )  # fmt: skip
    world.show(busy, card(1))
    await world.tick()
    world.show(replace(busy, energy_millijoules=1_000_000), card(1))
    await world.tick()
    place, who = world.place(0), {"namespace": "chat", "pod": "server", "project": "search"}
    assert world.value("headroom_card_memory_used_bytes", **place) == 9 * GIB
    assert world.value("headroom_pod_memory_used_bytes", **place, **who, container="") == 6 * GIB
    assert world.value("headroom_card_unattributed_memory_bytes", **place) == 2 * GIB
    assert world.value("headroom_card_energy_joules_total", **place, source="measured") == 1000
    parts = [
        world.value("headroom_pod_energy_joules_total", **place, **who, source="measured"),
        world.value("headroom_card_idle_energy_joules_total", **place, source="measured"),
        world.value("headroom_card_unattributed_energy_joules_total", **place, source="measured"),
    ]
    assert parts == pytest.approx([800, 0, 200])
    assert world.value("headroom_pod_busy_seconds_total", **place, **who) == pytest.approx(2.0)
    assert world.value("headroom_project_budget", project="search", currency="") == 100


async def test_a_missing_field_is_counted_and_its_series_is_absent(world: World) -> None:
    world.show(card(0, power_watts=Missing.NOT_SUPPORTED), card(1))
    frame = world.reader.frames[0]
    await world.tick()
    assert frame.cards[0].power_watts is Missing.NOT_SUPPORTED
    assert world.value("headroom_card_power_watts", **world.place(0)) is None
    assert world.value("headroom_card_power_watts", **world.place(1)) == 20
    assert world.value("headroom_agent_missing_fields", field="power_watts", reason="not_supported") == 1


async def test_memory_of_a_partitioned_card_is_counted_once_and_its_energy_once(world: World) -> None:
    instance = CardReading(
        "MIG-a", 0, "L4-MIG", memory_total_bytes=12 * GIB, memory_used_bytes=GIB, parent="GPU-0", processes=()
    )
    world.show(card(0, mig=True, memory_used_bytes=GIB), instance)
    await world.tick()
    used = [
        sample.labels["card"]
        for family in world.registry.collect() if family.name == "headroom_card_memory_used_bytes"
        for sample in family.samples
    ]  # fmt: skip
    powered = [
        sample.labels["card"]
        for family in world.registry.collect() if family.name == "headroom_card_power_watts"
        for sample in family.samples
    ]  # fmt: skip
    assert (used, powered) == (["MIG-a"], ["GPU-0"])
    assert world.published() == {"MIG-a": True}


async def test_an_outage_of_the_api_server_leaves_readings_and_metrics_untouched(world: World) -> None:
    await world.tick()
    await world.api.stop()
    world.now += 5
    assert await world.agent.cycle() is True
    assert world.value("headroom_agent_readings_total", result="ok") == 2
    await world.api.start()
    await world.tick()


async def test_a_capacity_that_an_earlier_version_left_behind_is_taken_away(world: World) -> None:
    """kubelet would refuse pods by it. The cards of other resources stay."""
    node = world.api.get(NODES, "n1")
    stale = {"headroom.dev/vram": str(48 * GIB), "nvidia.com/gpu": "2"}
    world.api.put(NODES, node | {"status": {"capacity": dict(stale), "allocatable": dict(stale)}})
    await world.tick(3)
    status = world.api.get(NODES, "n1")["status"]
    assert status["capacity"] == status["allocatable"] == {"nvidia.com/gpu": "2"}
    writes = world.writes()
    await world.tick(3)
    assert world.writes() == writes, "once"


async def test_a_driver_that_hangs_is_reported_and_its_answer_waited_for_only_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.cycle._LONGEST_READING_SECONDS", 0.05)
    calls: list[float] = []
    answered: list[float] = []
    release = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hang(now: float) -> None:
        calls.append(now)
        asyncio.run_coroutine_threadsafe(release.wait(), loop).result()
        answered.append(now)

    world.reader.hang = hang
    assert await world.agent.cycle() is False
    assert await world.agent.cycle() is False
    assert len(calls) == 1
    release.set()
    await until(lambda: answered)
    await turns()
    assert await world.agent.cycle() is True


async def test_the_daemon_survives_a_cycle_that_fails_for_a_reason_nobody_foresaw(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = asyncio.Event()

    async def explode() -> bool:
        failed.set()
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(world.agent, "cycle", explode)
    task = asyncio.create_task(world.agent.run())
    await asyncio.wait_for(failed.wait(), 5)
    await turns()
    assert not task.done()
    assert world.value("headroom_agent_cycle_errors_total") == 1
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_container_that_lost_the_cards_for_good_ends_and_withdraws_none(world: World) -> None:
    """A08 (nvidia-container-toolkit#48, #1227): every NVML call answers Unknown Error, the cards are well."""
    await world.tick()
    world.reader.show(Frame(driver_lost="NVML: Unknown Error"))
    await world.tick(720)
    assert world.published() == {"GPU-0": True, "GPU-1": True}
    assert world.value("headroom_agent_driver_up") == 0
    with pytest.raises(OutOfReachError, match="a new one may have them"):
        await asyncio.wait_for(world.agent.run(), 5)


async def test_cards_out_of_reach_for_a_moment_end_nothing(world: World) -> None:
    await world.tick()
    world.reader.show(Frame(driver_lost="NVML: Unknown Error"))
    await world.tick(3)
    world.show(*CARDS)
    await world.tick(20)
    assert world.published() == {"GPU-0": True, "GPU-1": True}
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(world.agent.run(), 0.2)


async def test_a_new_container_that_reaches_no_card_either_withdraws_them(world: World) -> None:
    world.api.put(NODES, NODE | {"metadata": NODE["metadata"] | {"annotations": {"headroom.dev/cards": json.dumps(
        [{"id": "GPU-0", "index": 0, "model": "L4", "vram_mib": 24576}])}}})  # fmt: skip
    await world.caught_up()
    world.reader.show(Frame(driver_lost="NVML: Unknown Error"))
    await world.tick(30)
    assert world.published() == {"GPU-0": False}
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(world.agent.run(), 0.2)


async def test_cards_that_the_device_plugin_withholds_are_not_published(tmp_path: Path) -> None:
    """S18 (k8s-device-plugin#81, #197, #935), by kubelet's own list of what its plugins hand out."""
    async with world_at(tmp_path) as world:
        world.kubelet.allocatable = [("nvidia.com/gpu", f"GPU-1::{at}") for at in range(3)] + [("rdma/hca", "mlx5_0")]
        await world.tick()
        assert world.published() == {"GPU-1": True}
        assert json.loads(world.api.get(NODES, "n1")["metadata"]["annotations"]["headroom.dev/cards"])[0]["slices"] == 3
        # A plugin that starts anew hands out nothing for a moment: that is no word on what it withholds.
        world.kubelet.allocatable = []
        await world.tick(15)
        assert world.published() == {"GPU-1": True}
        world.kubelet.allocatable = [("nvidia.com/gpu", "GPU-0"), ("nvidia.com/gpu", "GPU-1")]
        await world.tick(15)
        assert world.published() == {"GPU-0": True, "GPU-1": True}


async def test_one_command_forgets_a_replaced_card_and_ends_its_alert(world: World) -> None:
    """N23 (NVSentinel#1585): `kubectl annotate node n1 headroom.dev/forget-cards=GPU-1`."""
    await world.tick()
    world.show(card(0), replace(card(1), id="GPU-9"))
    await world.tick()
    assert world.published() == {"GPU-0": True, "GPU-1": False, "GPU-9": True}
    assert world.value("headroom_card_healthy", **world.place(1)) == 0
    body = json.loads(json.dumps(world.api.get(NODES, "n1")))
    body["metadata"]["annotations"]["headroom.dev/forget-cards"] = "GPU-1"
    world.api.put(NODES, body)
    await world.caught_up()
    await world.tick(2)
    assert world.published() == {"GPU-0": True, "GPU-9": True}
    assert world.value("headroom_card_healthy", **world.place(1)) is None


def pinned_pod(name: str, card_id: str) -> dict[str, Any]:
    """A pod that Headroom pinned, with 6 GiB."""
    body = pod(name, cards=card_id)
    body["metadata"]["annotations"]["headroom.dev/assigned-mode"] = "pinned"
    body["spec"]["containers"][0]["resources"] = {"limits": {"headroom.dev/vram": "6Gi"}}
    return body


def events(world: World, reason: str) -> list[tuple[str, str]]:
    asked = [request.body for request in world.api.asked("POST", "/events$")]
    return [(event["regarding"]["uid"], event["note"]) for event in asked if event["reason"] == reason]


async def test_a_pinned_pod_on_a_card_that_is_not_its_own_and_one_beyond_its_share_are_told_of(world: World) -> None:
    """Nothing stops a process from looking at all cards of its node, or from taking more than it was given."""
    world.api.put(PODS, pinned_pod("greedy", "GPU-0"))
    world.api.put(PODS, pinned_pod("stray", "GPU-0"))
    await world.caught_up()
    world.show(
        card(0, memory_used_bytes=8 * GIB, processes=(ProcessUse(1, 8 * GIB, pod_uid="uid-greedy"),)),
        card(1, memory_used_bytes=2 * GIB, processes=(ProcessUse(2, 2 * GIB, pod_uid="uid-stray"),)),
    )
    await world.tick(4)
    assert events(world, "MemoryBeyondShare") == [
        ("uid-greedy", "this pod uses 8.0 GiB of card GPU-0, of which it was given 6.0 GiB")
    ]
    assert events(world, "CardNotItsOwn") == [
        ("uid-stray", "this pod uses 2.0 GiB of card GPU-1, which was not given to it")
    ]
    greedy = world.place(0) | {"namespace": "chat", "pod": "greedy", "project": "search", "kind": "over_share"}
    assert world.value("headroom_pod_memory_excess_bytes", **greedy) == 2 * GIB
    stray = world.place(1) | {"namespace": "chat", "pod": "stray", "project": "search", "kind": "foreign_card"}
    assert world.value("headroom_pod_memory_excess_bytes", **stray) == 2 * GIB
    assert world.value("headroom_agent_trespasses_total", kind="over_share") == 1
    world.show(*CARDS)
    await world.tick(2)
    assert world.value("headroom_pod_memory_excess_bytes", **greedy) is None
    assert len(world.api.asked("POST", "/events$")) == 2


async def test_an_event_that_could_not_be_written_is_written_later(world: World) -> None:
    world.api.put(PODS, pinned_pod("greedy", "GPU-0"))
    await world.caught_up()
    world.show(card(0, processes=(ProcessUse(1, 8 * GIB, pod_uid="uid-greedy"),)), card(1))
    world.api.fail("POST", "/events$", times=1)
    await world.tick(6)
    assert len(world.api.asked("POST", "/events$")) == 2
    assert world.value("headroom_agent_trespasses_total", kind="over_share") == 1


async def test_memory_outside_pods_is_exported_only_where_it_is_known_of_every_process(world: World) -> None:
    mine = ProcessUse(1, GIB, pod_uid="uid-server")
    world.api.put(PODS, pod("server", cards="GPU-0"))
    await world.caught_up()
    for processes, known in (
        ((), 0.0),
        ((mine,), 0.0),
        ((mine, ProcessUse(2, 2 * GIB, pod_uid="uid-nobody")), 2.0 * GIB),
        ((mine, ProcessUse(3, 2 * GIB)), None),  # gone before it could be looked up
        ((mine, ProcessUse(4, Missing.NOT_AVAILABLE, pod_uid="uid-server")), None),
        (Missing.NO_PERMISSION, None),
    ):
        world.show(card(0, memory_used_bytes=4 * GIB, processes=processes), card(1))
        await world.tick()
        assert world.value("headroom_card_unattributed_memory_bytes", **world.place(0)) == known
