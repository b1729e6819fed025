"""Who gives cards to the replicas of the demo's second chapter: Headroom's extender, or whole-card Kubernetes."""

from collections.abc import Sequence

from headroom.domain.model import GpuNode, Mode, Placement
from simulations.demo.fleet import CARD_TYPES
from simulations.demo.services.scenario import share_vram_mib, template_of
from simulations.demo.services.side import Lane
from simulations.embedded.cluster import Cluster
from simulations.embedded.kube_scheduler import Extender
from simulations.embedded.store import CardRef


class WholeCards:
    """The device plugin hands out whole cards; a replica takes free ones of its type, all on one node, fullest node first."""

    name = "whole"
    whole = True

    def __init__(self, nodes: Sequence[GpuNode]) -> None:
        self._free: dict[CardRef, str] = {(node.name, card.index): card.model for node in nodes for card in node.cards}
        self._mib = {(node.name, card.index): card.usable_mib for node in nodes for card in node.cards}
        self._names: dict[int, str] = {}
        self._count = 0

    async def find(self, lane: Lane, wanted: int, now: float) -> None:
        """See `demo_serving.Supply`."""
        while len(lane.door.bound) < wanted:
            cards = self._pick(lane)
            if cards is None:
                return
            for ref in cards:
                del self._free[ref]
            node = cards[0][0]
            placement = Placement(
                node, tuple(index for _, index in cards), tuple(share_vram_mib(lane.service) for _ in cards), Mode.SLICE
            )
            self._count += 1
            self._names[id(placement)] = f"{lane.service.name}-{self._count}"
            lane.door.bound.append(placement)

    def _pick(self, lane: Lane) -> list[CardRef] | None:
        by_node: dict[str, list[CardRef]] = {}
        for ref, model in self._free.items():
            if model == CARD_TYPES[lane.service.card].product:
                by_node.setdefault(ref[0], []).append(ref)
        able = [sorted(cards) for cards in by_node.values() if len(cards) >= lane.service.cards]
        return min(able, key=lambda cards: (len(cards), cards))[: lane.service.cards] if able else None

    def release(self, lane: Lane, placement: Placement) -> None:
        """See `demo_serving.Supply`."""
        for index in placement.cards:
            self._free[placement.node, index] = CARD_TYPES[lane.service.card].product

    async def room(self, lane: Lane) -> int:
        """See `demo_serving.Supply`; no law of this side asks."""
        return lane.service.max_replicas

    def pod_name(self, placement: Placement) -> str:
        """See `demo_serving.Supply`."""
        return self._names[id(placement)]


class SharedCards:
    """The simulated cluster: pods that ask for memory, scheduled through the real extender."""

    name = "headroom"
    whole = False

    def __init__(self, cluster: Cluster, extender: Extender) -> None:
        self._cluster = cluster
        self.extender = extender
        self._pods: dict[int, str] = {}
        self._rooms: dict[str, tuple[int, int]] = {}
        self._lanes: dict[str, Lane] = {}
        self.audits = 0
        """Times that the extender's ledger was compared with the pods, card by card, and found equal."""

    @property
    def out_of_memory(self) -> int:
        """Replicas that found too little memory on their card."""
        return len(self._cluster.kubelets.out_of_memory)

    async def find(self, lane: Lane, wanted: int, now: float) -> None:
        """See `demo_serving.Supply`."""
        cluster, name = self._cluster, lane.service.name
        self._lanes[name] = lane
        cluster.engine.run(now)
        if not cluster.has(name):
            cluster.apply(name, template_of(lane.service), 0, share_vram_mib(lane.service))
        for placement in lane.door.bound[wanted:]:
            self.release(lane, placement)
        del lane.door.bound[wanted:]
        wanted -= len(lane.door.bound)
        waiting = [pod for pod in cluster.pending() if cluster.owner(pod) == name]
        for pod in waiting[wanted:]:
            cluster.remove(pod)
        if wanted:
            cluster.add(name, wanted - len(waiting))
            await self._settle()

    async def _settle(self) -> None:
        """One round of kube-scheduler; every pod that started is taken to its own service's door."""
        await self._catch_up()
        await self._cluster.introduce()
        for pod in await self._cluster.settle():
            lane = self._lanes[self._cluster.owner(pod)]
            refs = self._cluster.kubelets.cards[pod]
            mib = share_vram_mib(lane.service)
            placement = Placement(refs[0][0], tuple(index for _, index in refs), (mib,) * len(refs))
            self._pods[id(placement)] = pod
            lane.door.bound.append(placement)

    async def _catch_up(self) -> None:
        """Virtual time stands still while the watch tells the extender of the pods that went."""
        if self._cluster.removed:
            await self.extender.until_held(self._cluster.promised_mib())
            self._cluster.removed = 0
            self.audits += 1

    def release(self, lane: Lane, placement: Placement) -> None:
        """See `demo_serving.Supply`."""
        self._cluster.remove(self._pods.pop(id(placement)))

    async def room(self, lane: Lane) -> int:
        """See `demo_serving.Supply`: the extender's own fit answer, asked again when the cluster has changed."""
        version = self._cluster.moves
        known = self._rooms.get(lane.service.name)
        if known is None or known[0] != version:
            await self._catch_up()
            known = (version, await self.extender.fit(template_of(lane.service), lane.service.max_replicas))
            self._rooms[lane.service.name] = known
        return known[1]

    def pod_name(self, placement: Placement) -> str:
        """See `demo_serving.Supply`."""
        return self._pods[id(placement)]
