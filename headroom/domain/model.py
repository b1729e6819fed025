"""The nouns of placement: cards, nodes, requests, placements. Values only; no clock, no I/O."""

from dataclasses import dataclass, field
from enum import Flag, StrEnum
from typing import Final

WHOLE_MILLI: Final = 1000
"""Thousandths of a card that make a whole one."""

# Beyond these lie mistakes, and numbers on which the fleet's arrays would overflow.
MOST_SHARES: Final = 4096
"""Cards of a node, and shares of a pod."""
MOST_SLICES: Final = 2**20
"""Devices that a plugin makes of one card: some "slice by memory" with a device for every MiB or so."""
LARGEST_MIB: Final = 2**31
"""Memory of a card (2 PiB)."""
LARGEST_HOST: Final = 2**40
"""CPU of a node in thousandths, and its memory in MiB."""

IDLE_MIB: Final = 256
"""Memory in use on a card by no pod that does not count: an idle H100 shows 2 to 4 MiB, a monitoring tool's context a few more."""


CLAIMED_CARDS: Final = "resource.k8s.io/claims"
"""Stands for a resource in what the claims of a pod ask for (DRA): nodes are ranked by it, nothing is given out."""


class Sharing(StrEnum):
    """How a node's device plugin hands out its cards."""

    EXCLUSIVE = "exclusive"
    TIME_SLICING = "time-slicing"
    MPS = "mps"
    MIG = "mig"
    UNKNOWN = "unknown"  # shared in a way that Headroom has no name for: the limits of MPS are taken for granted


class Allocation(StrEnum):
    """Which card the device plugin prefers among those with a free slice (NVIDIA device plugin, internal/rm/allocate.go)."""

    DISTRIBUTED = "distributed"  # the card with the fewest slices given out; the plugin's default
    PACKED = "packed"  # the card with the most slices given out
    SPREAD = "spread"  # the card from which this very pod got the fewest; then as distributed
    UNKNOWN = "unknown"  # a policy that Headroom has no name for: it may be any card with a free slice


class PinBar(StrEnum):
    """Why Headroom must not pick a card itself; the value is what a refused pod is told of it."""

    NONE = ""
    MPS = "MPS takes its cards for itself: no process outside it gets in"
    UNKNOWN_SHARING = "the cards are shared in a way that Headroom does not know"
    MIG_BY_POSITION = "MIG instances are known by position only; the agent would name them"
    OTHER_VENDOR = "only NVIDIA cards can be picked by Headroom"
    CLAIMS = "kube-scheduler gives its cards to resource claims (DRA)"


class Mode(StrEnum):
    """Who picks the card."""

    SLICE = "slice"  # kubelet's device plugin does; Headroom picks the node and predicts the card
    PINNED = "pinned"  # Headroom does, and writes it on the pod


@dataclass(frozen=True, slots=True)
class Card:
    """One physical card, or one MIG instance, of a node."""

    id: str
    """UUID where the agent published it, else the index as text."""
    index: int
    model: str
    """Product name without sharing suffix, e.g. `NVIDIA-A100-SXM4-80GB`."""
    vram_mib: int
    """Total memory as the driver reports it; 0 where nothing tells it."""
    reserve_mib: int = 0
    """What the driver keeps for itself; never given out."""
    slices: int = 1
    """Time slices that the device plugin advertises for it; 1 when the card is not shared."""
    healthy: bool = True
    resource: str = ""
    """The extended resource under which a device plugin hands it out, where that is not the node's (`GpuNode.resource`)."""
    pin_bar: PinBar = PinBar.NONE
    """Why Headroom must not pick it itself (pinned mode)."""
    model_matched: bool = False
    """Whether the node's labels name the model of this and all cards of its kind here: then kube-scheduler has matched a pod's
    selector with it, and the card's own name, which may be spelt otherwise, has no say."""
    claimable: bool = False
    """Whether kube-scheduler may allocate it, or a part of it, to a resource claim (DRA)."""
    by_allocator: bool = False
    """Whether that is also how pods get it that ask for its extended resource: no device plugin advertises that here."""

    @property
    def sized(self) -> bool:
        """Whether its memory is known. A card of unknown memory goes out whole, or in the plugin's slices, and in no other part."""
        return self.vram_mib > 0

    @property
    def usable_mib(self) -> int:
        """Memory that pods may hold; 0 for a card that must not be used.

        A card of unknown memory counts as one MiB for each of its slices, so that it can be held and be full like any other.
        """
        if not self.healthy:
            return 0
        return max(self.vram_mib - self.reserve_mib, 0) if self.sized else self.slices


@dataclass(frozen=True, slots=True)
class GpuNode:
    """A node as placement sees it."""

    name: str
    cards: tuple[Card, ...] = ()
    sharing: Sharing = Sharing.EXCLUSIVE
    allocation: Allocation = Allocation.DISTRIBUTED
    resource: str = ""
    """The extended resource that the device plugin advertises, empty when there is none."""
    one_device_each: bool = False
    """Whether the plugin refuses a container that asks for more than one of its shared devices (`failRequestsGreaterThanOne`)."""
    cpu_milli: int = 0
    """Allocatable CPU."""
    memory_mib: int = 0
    """Allocatable host memory."""
    schedulable: bool = True
    """False when cordoned."""
    labels: dict[str, str] = field(default_factory=dict, hash=False)
    problems: tuple[str, ...] = ()
    """What is wrong with a part of its description, in words; the rest is used."""
    tells_cards: bool = False
    """Whether an agent writes on every pod in slice mode which cards kubelet gave it."""
    link_gbytes_per_second: tuple[tuple[int, ...], ...] = ()
    """Between each two of the cards, one direction (`headroom.domain.links.Matrix`); empty where it is unknown or the same for all."""

    def resource_of(self, card: Card) -> str:
        """The extended resource under which a card of this node is handed out, empty where there is no plugin."""
        return card.resource or self.resource

    def allocated(self, resource: str) -> list[Card]:
        """The cards that kube-scheduler allocates to pods that ask for an extended resource (DRA)."""
        return [card for card in self.cards if card.by_allocator and self.resource_of(card) == resource]

    def allocates(self, resource: str) -> bool:
        """Whether kube-scheduler allocates devices of this node to pods that ask for an extended resource (DRA)."""
        return bool(self.allocated(resource))


class CardMode(StrEnum):
    """How a card is shared, as HAMi's `vgpu-mode` has it."""

    MIG = "mig"  # it is a MIG instance
    MPS = "mps"  # its node shares cards by MPS
    HAMI_CORE = "hami-core"  # neither: pods share it by what they declare


class Order(Flag):
    """Which of the nodes and cards that fit a pod goes to first, where it is not the placement policy that says so."""

    POLICY = 0
    SPREAD_NODES = 1  # the node with the most free memory
    SPREAD_CARDS = 2  # the card with the most free memory


@dataclass(frozen=True, slots=True)
class CardChoice:
    """Which cards a pod accepts, besides by model; an empty set is no limit."""

    models: frozenset[str] = frozenset()
    """Words of which the model's name must hold one, whatever their case."""
    not_models: frozenset[str] = frozenset()
    """Words of which it must hold none."""
    ids: frozenset[str] = frozenset()
    not_ids: frozenset[str] = frozenset()
    modes: frozenset[CardMode] = frozenset()
    idle: bool = False
    """Only cards that nobody holds."""


ANY_CARD: Final = CardChoice()


@dataclass(frozen=True, slots=True)
class GpuRequest:
    """What one pod asks for; equal requests form one request class.

    Exactly one of `vram_mib` and `milli` is above 0 when a share has a stated size; both are 0 for a pod that asks for
    whole cards, or for time slices of the default size (card / slices).
    """

    count: int
    """Shares (cards or slices), 0 for a pod without a GPU."""
    mode: Mode = Mode.PINNED
    vram_mib: int = 0
    """MiB per share."""
    milli: int = 0
    """Thousandths of a card per share; 1000 is a whole card."""
    resource: str = ""
    """The device plugin's resource the pod names; empty in pinned mode."""
    cpu_milli: int = 0
    memory_mib: int = 0
    models: frozenset[str] = frozenset()
    """Card models that the pod accepts; empty means any."""
    one_device_each: bool = False
    """Whether several devices are asked for, but no container asks for more than one of them."""
    choice: CardChoice | None = None
    """Further limits on the cards; None for none."""
    order: Order = Order.POLICY
    on_cordoned: bool = False
    """Whether it may run on cordoned nodes, as pods of DaemonSets may."""

    @property
    def sized(self) -> bool:
        """Whether it states how much of a card each share takes: less than the whole, and not the plugin's own slice."""
        return self.vram_mib > 0 or 0 < self.milli < WHOLE_MILLI

    @property
    def whole_cards(self) -> bool:
        """Whether each share is a card of its own by the words of the request."""
        return self.count > 0 and (self.milli >= WHOLE_MILLI or (self.vram_mib == 0 and self.milli == 0))


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a pod's shares go: one card index per share (in slice mode a card may appear twice)."""

    node: str
    cards: tuple[int, ...]
    share_mib: tuple[int, ...]
    """MiB held on each of `cards`, in the same order."""
    mode: Mode = Mode.PINNED
    devices: int = 0
    """Devices that kube-scheduler allocates, on whichever cards it likes: then `cards` is empty."""
    devices_mib: int = 0
    """MiB that those hold together at most."""

    @property
    def shares(self) -> int:
        """Cards and devices, each share counted once."""
        return len(self.cards) + self.devices

    @property
    def held_mib(self) -> int:
        """MiB of all shares together."""
        return sum(self.share_mib) + self.devices_mib
