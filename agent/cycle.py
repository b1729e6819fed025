"""The agent's cycle: read the cards, find whose processes run on them, book, compare with kubelet, publish.

Reading and decisions are made by the pure modules; this one does the waiting and the writing.
"""

import asyncio
import datetime
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from agent.cards.inventory import Inventory, Known, cards_of_annotation, plugin_owns_instances, slices_of
from agent.cards.reader import Reader, ReaderError, Reading
from agent.cards.verdicts import HealthTracker, Verdict
from agent.energy.attribution import Usage, holders_of, pids_of, usage_of
from agent.energy.books import Account
from agent.metrics import AgentMetrics, Snapshot
from agent.pods.index import NODE_POD, NodePod, PodIndex
from agent.pods.podresources import PodResources, PodResourcesError
from agent.pods.processes import ProcessTable
from agent.pods.reconcile import Truth, cards_held, compare, devices_by_card
from agent.pods.trespass import Watch, find
from agent.publisher import Publisher
from agent.settings import AgentSettings
from headroom import wire
from headroom.daemon.guard import Guard
from headroom.daemon.logs import get_logger
from headroom.daemon.pages import Health
from headroom.daemon.tasks import Backoff
from headroom.domain.dra.devices import DeviceKey, read_slice
from headroom.domain.dra.objects import RESOURCE_SLICE, ResourceSlice
from headroom.domain.labels.node_facts import NodeFacts
from headroom.domain.model import Allocation, Card
from headroom.errors import HeadroomError
from headroom.kube.calls import NODES, PODS, RESOURCE_SLICES
from headroom.kube.client import KubeClient
from headroom.kube.reflector import Reflector
from headroom.names import ANNOTATION_FORGET_CARDS, ANNOTATION_NODE_CARDS
from headroom.units import MIB
from headroom.wire import DELETED

_WAIT_SLICE_SECONDS: Final = 1.0
"""A thread that waits in the driver cannot be cancelled: this bounds how long a shutdown takes."""

_CALM_SECONDS: Final = 0.1
"""Faults come in swarms; one reading serves for a swarm, and a driver that reports one without end does not keep a core busy."""
_LONGEST_READING_SECONDS: Final = 20.0

_OFFER_SECONDS: Final = 60.0
"""How often kubelet is asked which devices it may give; it changes when a plugin starts or withdraws a device."""

_REACH_SECONDS: Final = 60.0
"""How long the cards may be out of reach: an update of the driver or of the container runtime is over sooner."""


class OutOfReachError(HeadroomError):
    """This process cannot reach cards that it reached before, and that may be well."""


@dataclass(slots=True)
class Cluster:
    """What the agent follows and writes through the API server."""

    node: Reflector[wire.Node]
    pods: Reflector[NodePod]
    slices: Reflector[ResourceSlice]
    publisher: Publisher

    @property
    def synced(self) -> bool:
        """Whether both caches hold a complete list."""
        return self.node.has_synced and self.pods.has_synced


class Agent:
    """One node's agent. `podresources` is None where there is no kubelet to ask."""

    def __init__(
        self,
        settings: AgentSettings,
        reader: Reader,
        *,
        account: Account,
        metrics: AgentMetrics,
        health: Health,
        podresources: PodResources | None = None,
        processes: ProcessTable,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._settings, self._reader, self._account, self._metrics = settings, reader, account, metrics
        self._health, self._podresources, self._processes = health, podresources, processes
        self._cluster: Cluster | None = None
        self._pending: asyncio.Task[Reading] | None = None
        self._monotonic, self._wall = monotonic, wall
        self._tracker = HealthTracker(settings.settle_seconds, frozenset(settings.ignored_xids))
        self._inventory = Inventory(settings.unified_memory_mib, settings.excluded_cards, settings.forget_seconds)
        self._offered: dict[str, int] | None = None
        self._offer_asked_at = float("-inf")
        self._answered_at: float | None = None
        self._out_of_reach = False
        self._adopted = False
        self._truth = Truth()
        self._trespasses = Watch()
        self._verdicts: dict[str, Verdict] = {}
        self._settled: dict[tuple[str, str], str] = {}
        self._pods = PodIndex()
        self._pods_changed = True
        self._cards: tuple[Card, ...] = ()
        self._met: set[str] = set()
        """UIDs of the node's pods that kubelet has started."""
        self._started = asyncio.Event()
        self._comparing = asyncio.Lock()
        self._log = get_logger(__name__).bind(node=settings.node)
        self._guard = Guard(lambda _: metrics.cycle_errors.inc())

    def attach(self, cluster: Cluster) -> None:
        """Publish to, and take pods from, this cluster; without one the agent only reads and exports."""
        self._cluster = cluster

    def pod_event(self, kind: str, _: str, pod: NodePod) -> None:
        """To be called by the pods' reflector."""
        self._pods_changed = True
        if kind != DELETED and pod.status.start_time is not None and pod.metadata.uid not in self._met:
            self._met.add(pod.metadata.uid)
            self._started.set()
        if kind == DELETED:
            self._met.discard(pod.metadata.uid)
        if kind == DELETED and self._cluster is not None:
            self._cluster.publisher.forget_pod(pod.metadata.uid)

    async def run(self) -> None:
        """Cycle until cancelled. A driver that cannot be asked is asked again with back-off.

        Raises OutOfReachError when this container has lost the cards for good: a new one has them again.
        """
        backoff = Backoff(initial_seconds=self._settings.interval_seconds, maximum_seconds=60.0)
        while True:
            started = self._monotonic()
            answered = await self._guard.run("cycle", self.cycle())
            self._metrics.cycle_seconds.set(self._monotonic() - started)
            self._check_reach()
            if answered:
                backoff.reset()
                await self._rest(started + self._settings.interval_seconds)
            else:
                await asyncio.sleep(backoff.next_seconds())

    async def tell_at_once(self) -> None:
        """Compare as soon as a pod has started, until cancelled: the scheduler keeps room for it on several cards meanwhile."""
        while True:
            await self._started.wait()
            self._started.clear()
            self._refresh_pods()
            await self._guard.run("compare", self._compare(self._cards, self._monotonic()))
            await asyncio.sleep(_CALM_SECONDS)

    async def _rest(self, until: float) -> None:
        """Wait for the next cycle, or for a fault that the driver reports."""
        while (left := until - self._monotonic()) > 0:
            if await asyncio.to_thread(self._reader.wait, min(left, _WAIT_SLICE_SECONDS)):
                await asyncio.sleep(_CALM_SECONDS)
                return

    async def cycle(self) -> bool:
        """One round. Returns whether the driver answered."""
        self._refresh_pods()
        self._adopt()
        reading = await self._read()
        now = self._monotonic()
        await self._ask_offer(reading, now)
        verdicts = self._judge(reading, now)
        known = self._known(reading)
        cards = self._cards = self._inventory.update(reading, verdicts, known=known)
        for card_id in self._inventory.forgotten:
            self._tracker.forget(card_id)
            self._log.info("card_forgotten", card=card_id)
        self._note_withdrawals(verdicts | self._inventory.reasons)
        # Before anything that waits for another machine: the account needs its readings in time.
        usage = self._book(reading, cards)
        # Before the pods are listed every process seems to be outside them.
        unattributed = usage.unattributed_bytes if self._cluster is not None and self._cluster.synced else {}
        self._metrics.snapshot = Snapshot(reading, cards, usage.memory, unattributed, self._metrics.snapshot.trespasses)
        await self._publish(cards, reading, now)
        await self._compare(cards, now)
        if reading is not None:
            await self._look_for_trespasses(usage, cards, now)
        return reading is not None

    async def _look_for_trespasses(self, usage: Usage, cards: tuple[Card, ...], now: float) -> None:
        """Tell of pods that use what they were not given."""
        tolerance = self._settings.trespass_mib * MIB
        found = find(usage.by_pod, self._pods, self._truth.holders, cards, tolerance)
        confirmed, new = self._trespasses.confirm(found)
        self._metrics.snapshot.trespasses = tuple(confirmed)
        for one in new:
            self._metrics.trespasses.labels(one.kind.value).inc()
            self._log.warning(
                "trespass", kind=one.kind.value, pod=f"{one.pod.namespace}/{one.pod.name}", card=one.card,
                used_mib=one.used_bytes // MIB, share_mib=one.share_bytes // MIB,
            )  # fmt: skip
        if self._cluster is not None and self._cluster.synced:
            await self._cluster.publisher.tell_trespasses(confirmed, now)

    def _judge(self, reading: Reading | None, now: float) -> dict[str, Verdict]:
        """What is thought of each card. Cards that only this container cannot reach are as they were."""
        if reading is not None:
            return self._tracker.update(reading)
        return self._tracker.last if self._out_of_reach else self._tracker.lost(now)

    def _check_reach(self) -> None:
        """Raise OutOfReachError once the cards have been out of this container's reach for a while."""
        if self._out_of_reach and self._answered_at is not None:
            silent = self._monotonic() - self._answered_at
            if silent >= _REACH_SECONDS:
                raise OutOfReachError(
                    f"this container has lost the cards: NVML has answered nothing else for {silent:.0f} s; a new one may have them"
                )

    def _known(self, reading: Reading | None) -> Known:
        node = self._node()
        replaced = node.metadata.annotations.get(ANNOTATION_FORGET_CARDS, "") if node is not None else ""
        return Known(
            slices=self._slices(reading),
            instances=node is None or not plugin_owns_instances(node),
            offered=None if self._settings.slices else self._offered,
            held=cards_held(self._pods, self._truth),
            replaced=frozenset(word.strip() for word in replaced.split(",")),
        )

    async def _ask_offer(self, reading: Reading | None, now: float) -> None:
        """Ask kubelet now and then which devices its plugins hand out. What it last said stays when it is silent."""
        if self._podresources is None or reading is None or now - self._offer_asked_at < _OFFER_SECONDS:
            return
        self._offer_asked_at = now
        try:
            devices = await self._podresources.allocatable()
        except PodResourcesError as error:
            self._log.info("offer_unknown", error=str(error), reason=error.reason)
            return
        cards = tuple(Card(card.id, card.index, card.model, 0) for card in reading.cards)
        # An empty list is a plugin that starts anew; what it withheld before, it will withhold again.
        self._offered = devices_by_card(devices, cards) or self._offered

    async def _publish(self, cards: tuple[Card, ...], reading: Reading | None, now: float) -> None:
        node = self._node()
        if self._cluster is None or not self._cluster.synced or node is None:
            return
        if cards or self._shown():
            await self._cluster.publisher.publish_cards(node, cards, now)
        if reading is not None:
            await self._cluster.publisher.publish_links(node, reading.links, reading.links_problem, now)

    def _refresh_pods(self) -> None:
        if self._cluster is not None and self._pods_changed:
            self._pods_changed = False
            self._pods = PodIndex(self._cluster.pods.items().values())

    def _node(self) -> wire.Node | None:
        return self._cluster.node.items().get(self._settings.node) if self._cluster is not None else None

    def _allocation(self) -> Allocation:
        """The rule by which the device plugin picks, as the scheduler understands it."""
        node = self._node()
        return NodeFacts(node).allocation() if node is not None else Allocation.DISTRIBUTED

    def _shown(self) -> str:
        node = self._node()
        return node.metadata.annotations.get(ANNOTATION_NODE_CARDS, "") if node is not None else ""

    def _adopt(self) -> None:
        """Take over the cards a predecessor published, once: one that does not answer now is then shown as unhealthy."""
        if self._adopted or self._cluster is None or not self._cluster.synced:
            return
        self._adopted = True
        node = self._node()
        before = cards_of_annotation(node) if node is not None else ()
        self._inventory.expect(before)
        self._tracker.expect(card.id for card in before)

    def _slices(self, reading: Reading | None) -> int:
        node = self._node()
        if self._settings.slices or node is None:
            return self._settings.slices
        if reading is None:
            return slices_of(node, 0)
        instances = not plugin_owns_instances(node)
        given = [card for card in reading.cards if card.allocatable and (instances or not card.parent)]
        return slices_of(node, len(given) + len(reading.broken))

    async def _read(self) -> Reading | None:
        started = self._monotonic()
        try:
            reading = await self._ask(started)
        except ReaderError as error:
            self._metrics.readings.labels("failed").inc()
            self._metrics.driver_up.set(0)
            self._health.set_ready("driver", False, str(error))
            self._log.warning("cards_not_readable", error=str(error))
            # Who never had an answer cannot tell a container without the cards from a dead driver.
            self._out_of_reach = error.out_of_reach and self._answered_at is not None
            return None
        self._answered_at, self._out_of_reach = self._monotonic(), False
        self._metrics.readings.labels("ok").inc()
        self._metrics.driver_up.set(1)
        self._metrics.reading_seconds.set(self._monotonic() - started)
        self._metrics.read_at.set(self._wall())
        self._health.set_ready("driver", True)
        for fault in reading.faults:
            self._metrics.faults.labels(str(fault.xid)).inc()
            self._log.warning("card_fault", card=fault.card, xid=fault.xid)
        return reading

    async def _ask(self, now: float) -> Reading:
        """A reading, made in a thread: a driver call that hangs must not take the agent with it. Raises ReaderError."""
        if self._pending is None:
            self._pending = asyncio.create_task(asyncio.to_thread(self._reader.read, now))
        done, _ = await asyncio.wait({self._pending}, timeout=_LONGEST_READING_SECONDS)
        if not done:
            raise ReaderError(f"the driver has not answered for {_LONGEST_READING_SECONDS:.0f} s")
        task, self._pending = self._pending, None
        return task.result()

    def _note_withdrawals(self, verdicts: dict[str, Verdict]) -> None:
        for card_id, verdict in verdicts.items():
            before = self._verdicts.get(card_id)
            if not verdict.healthy and (before is None or before.healthy):
                self._metrics.withdrawals.labels(verdict.reason).inc()
                self._log.warning("card_withdrawn", card=card_id, reason=verdict.reason)
            elif verdict.healthy and before is not None and not before.healthy:
                self._log.info("card_back", card=card_id)
        self._verdicts = verdicts

    async def _compare(self, cards: tuple[Card, ...], now: float) -> None:
        """Hold kubelet's list against the annotations and correct what differs. What kubelet last said stays when it is silent."""
        if self._podresources is None:
            return
        async with self._comparing:
            await self._compare_now(self._podresources, cards, now)

    async def _compare_now(self, podresources: PodResources, cards: tuple[Card, ...], now: float) -> None:
        try:
            devices = await podresources.devices()
        except PodResourcesError as error:
            self._metrics.podresources_errors.labels(error.reason).inc()
            self._log.warning("kubelet_silent", error=str(error), reason=error.reason)
            return
        truth = self._truth = compare(devices, self._pods, cards, self._allocation(), self._published())
        for kind, number in (
            ("pod", len(truth.unknown_pods)),
            ("device", len(truth.unknown_devices)),
            ("not_started", len(truth.waiting)),
            ("not_understood", len(truth.not_understood)),
        ):
            self._metrics.unmatched.labels(kind).set(number)
        self._count_right(truth)
        if self._cluster is None or not self._cluster.synced:
            return
        publisher = self._cluster.publisher
        # At once: an API server that stalls must not hold up the next reading once for each pod.
        written = await asyncio.gather(*(publisher.correct(correction, now) for correction in truth.corrections))
        for correction, done in zip(truth.corrections, written, strict=True):
            if done:
                self._metrics.findings.labels(correction.finding.value).inc()
                self._settled[correction.namespace, correction.name] = correction.uid

    def _published(self) -> dict[DeviceKey, tuple[str, ...]]:
        """The card ids of the devices that DRA drivers publish for this node."""
        if self._cluster is None:
            return {}
        slices = sorted(map(read_slice, self._cluster.slices.items().values()), key=lambda each: each.generation)
        return {device.key: device.card_ids for each in slices for device in each.devices.values()}

    def _count_right(self, truth: Truth) -> None:
        """Count each pod once, when its cards are first seen to be as predicted."""
        wrong = {(correction.namespace, correction.name) for correction in truth.corrections}
        settled: dict[tuple[str, str], str] = {}
        for key in truth.holders:
            pod = self._pods.by_name.get(key)
            uid = pod.metadata.uid if pod is not None else ""
            if self._settled.get(key) == uid:
                settled[key] = uid
            elif key not in wrong:
                settled[key] = uid
                self._metrics.findings.labels("right").inc()
        self._settled = settled

    def _book(self, reading: Reading | None, cards: tuple[Card, ...]) -> Usage:
        if reading is None:
            return Usage({}, (), {})
        owners = self._processes.owners(pids_of(reading))
        self._metrics.vanished.set(self._processes.vanished)
        self._metrics.reused.set(self._processes.reused)
        usage = usage_of(reading, owners, self._pods)
        self._account.observe(reading, holders_of(self._pods, self._truth.holders, cards, reading), usage.uses)
        return usage


def follow(
    kube: KubeClient, settings: AgentSettings, metrics: AgentMetrics, on_pod: Callable[[str, str, NodePod], None]
) -> Cluster:
    """Reflectors of this Node, of its pods and ResourceSlices, and the writer; `on_pod` hears of every pod."""
    node = Reflector(
        kube, NODES, wire.NODE, lambda *_: None, query=[("fieldSelector", f"metadata.name={settings.node}")]
    )
    pods = Reflector(kube, PODS, NODE_POD, on_pod, query=[("fieldSelector", f"spec.nodeName={settings.node}")])
    slices = Reflector(
        kube, RESOURCE_SLICES, RESOURCE_SLICE, lambda *_: None,
        query=[("fieldSelector", f"spec.nodeName={settings.node}")], optional=True,
    )  # fmt: skip
    publisher = Publisher(
        kube,
        settings.node,
        counted=lambda what, result: metrics.writes.labels(what, result).inc(),
        now=lambda: datetime.datetime.now(datetime.UTC),
        tells_cards=settings.podresources_socket not in ("", "off"),
    )
    return Cluster(node, pods, slices, publisher)
