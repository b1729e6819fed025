"""What the API server tells of devices that kube-scheduler allocates (DRA): classes, slices and claims, by watch and by list.

A slice describes its node anew; a claim changes what the ledger counts. Another meaning of a class concerns all nodes, which are
described anew one by one, beside other work (`due`).
"""

from collections.abc import Callable, Iterable

from headroom import wire
from headroom.domain.dra.claims import Claim, ClaimUse, read_claim, use_of
from headroom.domain.dra.classes import Classes, read_class
from headroom.domain.dra.devices import read_slice
from headroom.domain.dra.objects import DeviceClass, ResourceClaim, ResourceSlice
from headroom.domain.dra.pools import NodeDevices, PoolKey, Pools
from headroom.domain.model import CLAIMED_CARDS, GpuRequest, Mode
from headroom.wire import DELETED
from scheduler.cluster.changes import CardClaimed, Changes
from scheduler.cluster.news.pods import PodNews
from scheduler.cluster.pods.records import Pods
from scheduler.ledger.holding import claims_of
from scheduler.ledger.ledger import Ledger
from scheduler.metrics import SchedulerMetrics


class DeviceNews:
    """Applies events to what is known of devices, and to the ledger. `describe` describes a node anew."""

    def __init__(
        self,
        ledger: Ledger,
        pods: Pods,
        pod_news: PodNews,
        metrics: SchedulerMetrics,
        *,
        describe: Callable[[str], Changes],
    ) -> None:
        self._ledger, self._pods, self._pod_news, self._metrics, self._describe = (
            ledger, pods, pod_news, metrics, describe,
        )  # fmt: skip
        self._classes = Classes()
        self._slices = Pools(self._classes)
        self._claims: dict[str, Claim] = {}
        self._claims_of_pool: dict[PoolKey, set[str]] = {}
        self.problems: dict[str, str] = {}
        """What is wrong with claims that are counted all the same, by `namespace/name`."""
        self.due: dict[str, None] = {}
        """Nodes that must be described anew, in order."""

    # Questions

    def of_node(self, name: str) -> NodeDevices:
        """The accelerators that ResourceSlices say a node has."""
        return self._slices.of_node(name)

    def request_of(self, pod: wire.Pod) -> GpuRequest | None:
        """What a pod's claims ask for of accelerators, to rank nodes by; None where they ask for none, or are not known yet.

        Of different devices the largest stands for all.
        """
        wanted = [
            each
            for key in claims_of(pod)
            if (claim := self._claims.get(key)) is not None
            for each in claim.wanted
            if self._is_card_class(each.class_name)
        ]
        if not wanted:
            return None
        mib = 0 if any(not each.memory_mib for each in wanted) else max(each.memory_mib for each in wanted)
        number = sum(each.devices for each in wanted)
        return GpuRequest(number, mode=Mode.PINNED, vram_mib=mib, resource=CLAIMED_CARDS)

    def _is_card_class(self, name: str) -> bool:
        known = self._classes.cls(name)
        return known is not None and any(map(self._slices.is_card_driver, known.drivers))

    # News

    def on_class(self, kind: str, name: str, published: DeviceClass) -> Changes:
        """Apply an event of the watch of DeviceClasses."""
        self._metrics.events_read.labels("deviceclass").inc()
        if self._classes.apply(name, None if kind == DELETED else read_class(published)):
            self.due.update(dict.fromkeys(self._slices.nodes()))
        return []

    def on_slice(self, kind: str, name: str, published: ResourceSlice) -> Changes:
        """Apply an event of the watch of ResourceSlices."""
        self._metrics.events_read.labels("resourceslice").inc()
        return self._anew(*self._slices.apply(name, None if kind == DELETED else read_slice(published)))

    def work_off(self) -> Changes:
        """Describe the next node that is due."""
        node = next(iter(self.due))
        del self.due[node]
        return self._anew([node], self._slices.pools_of(node))

    def _anew(self, nodes: Iterable[str], pools: Iterable[PoolKey]) -> Changes:
        changes = Changes()
        for node in sorted(nodes):
            changes += self._describe(node)
        for key in sorted({key for pool in pools for key in self._claims_of_pool.get(pool, ())}):
            changes += self._place(self._claims[key])
        return changes

    def on_claim(self, kind: str, key: str, published: ResourceClaim) -> Changes:
        """Apply an event of the watch of ResourceClaims."""
        self._metrics.events_read.labels("resourceclaim").inc()
        before = self._claims.pop(key, None)
        for pool in _pools(before):
            keys = self._claims_of_pool[pool]
            keys.discard(key)
            if not keys:
                del self._claims_of_pool[pool]
        if kind == DELETED:
            self.problems.pop(key, None)
            return self._came_free(self._ledger.forget_claim(key))
        claim = self._claims[key] = read_claim(published)
        for pool in _pools(claim):
            self._claims_of_pool.setdefault(pool, set()).add(key)
        return self._place(claim)

    def _place(self, claim: Claim) -> Changes:
        """Count a claim where its devices are."""
        use = use_of(claim, self._slices)
        known = self._ledger.claims.holdings.get(claim.key)
        before = set(known.placement.cards) if known is not None and known.use.node == use.node else set()
        changes = self._came_free(self._ledger.apply_claim(claim, use))
        if use.problem and self.problems.get(claim.key) != use.problem:
            self._metrics.objects_refused.labels("resourceclaim").inc()
        if use.problem:
            self.problems[claim.key] = use.problem
        else:
            self.problems.pop(claim.key, None)
        return changes + self._pod_news.give_way(use.node) + self._collisions(claim, use, before)

    def _came_free(self, nodes: Iterable[str]) -> Changes:
        return [self._pods.freed(node, seen_by_scheduler=True) for node in sorted(nodes)]

    def _collisions(self, claim: Claim, use: ClaimUse, before: set[int]) -> Changes:
        """Pinned pods whose cards kube-scheduler has just given to a claim, too."""
        holding, node = self._ledger.claims.holdings.get(claim.key), self._ledger.fleet.nodes.get(use.node)
        if holding is None or node is None:
            return []
        cards = set(holding.placement.cards) - before
        return [
            CardClaimed(held.pod, held.uid, node.cards[at].id, node.name, claim.key)
            for held in (self._ledger.on_node(node.name) if cards else ())
            if held.placement.mode is Mode.PINNED
            for at in held.placement.cards
            if at in cards
        ]


def _pools(claim: Claim | None) -> set[PoolKey]:
    return {PoolKey(each.device.driver, each.device.pool) for each in claim.allocated} if claim is not None else set()
