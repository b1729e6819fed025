"""What resource claims hold of the cards (DRA): counted once each, however many pods share a claim. Pure.

kube-scheduler allocates devices to claims, and for pods that ask for an extended resource it makes the claim itself, after Headroom has
picked the node. Until a claim is known, a pod that has one counts as a device of the node that may be any; see `Fleet.promised`.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from headroom.domain.dra.claims import Claim, ClaimUse, PodName
from headroom.domain.model import GpuNode, Mode, Placement
from scheduler.ledger.fleet import Fleet


@dataclass(slots=True, eq=False)
class ClaimHolding:
    """What one claim holds. Only claims on accelerators have one.

    `placement` gives card positions on the node as it is described now.
    """

    key: str
    """`namespace/name` of the claim."""
    use: ClaimUse
    pods: tuple[PodName, ...]
    begun: float
    """When it was learned of (Unix seconds)."""
    placement: Placement
    allocations: tuple[int, ...] = ()
    """How many allocations of the default size it stands for, by card."""
    promised: int = 0
    """Devices of it whose cards are not known."""
    counted: bool = False
    """Whether the fleet's arrays include it; not so while the node is unknown."""
    excess_mib: dict[int, int] = field(default_factory=dict)
    """What its pods were measured to use beyond it, by card position."""
    problem: str = ""

    @property
    def pod(self) -> str:
        """Under which name what its pods use is counted."""
        return self.pods[0].key if self.pods else self.key


class ResourceClaims:
    """The claims over a Fleet, by `namespace/name`."""

    def __init__(self, fleet: Fleet, unix_clock: Callable[[], float]) -> None:
        self._fleet, self._unix_clock = fleet, unix_clock
        self.followed = True
        """Whether anything is told of claims at all; where not, pods that have some count for nothing."""
        self.holdings: dict[str, ClaimHolding] = {}
        """Read only."""
        self._known: set[str] = set()
        self._by_node: dict[str, dict[str, ClaimHolding]] = {}
        self._settled: Counter[str] = Counter()
        """Pods whose extended resources have been allocated, by UID."""
        self._settles: dict[str, str] = {}
        """The pod that a claim settles, by the claim's key."""

    # Questions

    def settles(self, uid: str) -> bool:
        """Whether what kube-scheduler allocated to the pod for its extended resources is known."""
        return uid in self._settled

    def unknown(self, keys: Iterable[str]) -> int:
        """How many of a pod's claims are not known; an empty key stands for one whose name is not known either."""
        return sum(key not in self._known for key in keys) if self.followed else 0

    def on_node(self, name: str) -> list[ClaimHolding]:
        """What claims hold on a node."""
        return list(self._by_node.get(name, {}).values())

    def users(self, name: str) -> dict[str, str]:
        """Pods that share a claim on the node with the one under whose name it counts, and that name."""
        return {pod.key: each.pod for each in self.on_node(name) for pod in each.pods[1:]}

    # Changes

    def apply(self, claim: Claim, use: ClaimUse) -> tuple[set[str], set[str]]:
        """Take in a claim and what it holds. Gives the nodes on which something may have come free, and pods to look at again."""
        old = self.holdings.get(claim.key)
        if claim.key in self._known and old is not None and (old.use, old.pods) == (use, claim.pods):
            return set(), self._note(claim)
        freed, pods = self.forget(claim.key)
        self._known.add(claim.key)
        pods |= self._note(claim) | {pod.uid for pod in claim.pods}
        if use.node and (use.shares or use.unplaced):
            begun = old.begun if old is not None else self._unix_clock()
            new = ClaimHolding(claim.key, use, claim.pods, begun, Placement(use.node, (), (), Mode.SLICE))
            self.holdings[claim.key] = new
            self._by_node.setdefault(use.node, {})[claim.key] = new
            self._resolve(new)
            if old is not None and old.placement == new.placement and new.counted:
                new.excess_mib = old.excess_mib  # until the next reading
                self._fleet.add_excess(self._fleet.row_of[use.node], new.excess_mib)
        return freed, pods

    def _note(self, claim: Claim) -> set[str]:
        """Note whose extended resources a claim settles; gives the pods for which that changed."""
        before = self._settles.get(claim.key, "")
        now = claim.pods[0].uid if claim.extended and claim.is_allocated and claim.pods else ""
        if before == now:
            return set()
        if before:
            self._settled[before] -= 1
            if not self._settled[before]:
                del self._settled[before]
            del self._settles[claim.key]
        if now:
            self._settled[now] += 1
            self._settles[claim.key] = now
        return {uid for uid in (before, now) if uid}

    def forget(self, key: str) -> tuple[set[str], set[str]]:
        """Take in that a claim is gone; see `apply`."""
        self._known.discard(key)
        pods = self._note(Claim(key, ""))
        old = self.holdings.pop(key, None)
        if old is None:
            return set(), pods
        self._uncount(old)
        here = self._by_node[old.use.node]
        del here[key]
        if not here:
            del self._by_node[old.use.node]
        return {old.use.node}, pods | {pod.uid for pod in old.pods}

    def leave_node(self, name: str) -> None:
        """Give back all that claims hold on a node, before it is described anew or forgotten."""
        for each in self.on_node(name):
            self._uncount(each)

    def find_on_node(self, name: str) -> None:
        """Find the cards of the node's claims by id, and count them."""
        for each in self.on_node(name):
            self._resolve(each)

    def _resolve(self, holding: ClaimHolding) -> None:
        use, node = holding.use, self._fleet.nodes.get(holding.use.node)
        if node is None:
            return
        usable = self._fleet.usable_mib[self._fleet.row_of[node.name]]
        positions = _positions(node)
        held: list[tuple[int, int, int]] = []
        strangers = 0
        for share in use.shares:
            at = next((positions[each] for each in share.card_ids if each in positions), None)
            if at is not None:
                mib = min(share.mib or int(usable[at]), int(usable[at]))
                held.append((at, mib, share.allocations))
            elif not share.by_uuid:
                strangers += 1
        cards, sizes, allocations = zip(*held, strict=True) if held else ((), (), ())
        holding.placement = Placement(node.name, cards, sizes, Mode.SLICE)
        holding.allocations = allocations
        holding.promised = use.unplaced + strangers
        holding.problem = use.problem
        count_claim(self._fleet, holding)
        holding.counted, holding.excess_mib = True, {}

    def _uncount(self, holding: ClaimHolding) -> None:
        if holding.counted:
            count_claim(self._fleet, holding, -1)
            self._fleet.add_excess(self._fleet.row_of[holding.placement.node], holding.excess_mib, -1)
            holding.counted = False

    def problems(self) -> Mapping[str, str]:
        """What is wrong with claims that are counted all the same, by key."""
        return {key: each.problem for key, each in self.holdings.items() if each.problem}


def count_claim(fleet: Fleet, holding: ClaimHolding, sign: int = 1) -> None:
    """Count a claim in a fleet, or with sign -1 no longer."""
    row, placement = fleet.row_of[holding.placement.node], holding.placement
    fleet.claim(row, placement.cards, placement.share_mib, holding.allocations, sign=sign)
    fleet.promise(row, sign * holding.promised)


def _positions(node: GpuNode) -> dict[str, int]:
    return {card.id: at for at, card in enumerate(node.cards)}
