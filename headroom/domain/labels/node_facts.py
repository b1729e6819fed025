"""What a node's labels and status say, read one fact at a time; a fact that cannot be read names itself. Pure."""

from fractions import Fraction
from typing import Final, NamedTuple

from headroom import names, units, wire
from headroom.domain.model import LARGEST_HOST, Allocation, Sharing
from headroom.errors import HeadroomError

_STRATEGIES: Final = {
    "": Sharing.EXCLUSIVE,
    "none": Sharing.EXCLUSIVE,
    "time-slicing": Sharing.TIME_SLICING,
    "mps": Sharing.MPS,
}
_GKE_STRATEGIES: Final = {"time-sharing": Sharing.TIME_SLICING, "mps": Sharing.MPS}
_MIG_RESOURCE: Final = "nvidia.com/mig-"
_MOST_DIGITS: Final = 9
_YES_NO: Final = {"true": True, "false": False}


class InventoryError(HeadroomError, ValueError):
    """A node whose cards cannot be told; names the node, the field and the value, with the reason in plain words."""

    def __init__(self, node: str, field: str, value: str, reason: str) -> None:
        self.node, self.field, self.value, self.reason = node, field, value, reason
        super().__init__(f"node {node}: {field}: {value}: {reason}")


class Devices(NamedTuple):
    """Devices that a plugin advertises under one resource: all of them, and those in working order."""

    all: int
    working: int


class NodeFacts:
    """Reads one node; keeps its name at hand for errors."""

    def __init__(self, node: wire.Node) -> None:
        self.node = node
        self.name = node.metadata.name
        self.labels = node.metadata.labels
        self.problems: list[str] = []
        """Words that nobody here knows; the safe reading of each is used."""

    def _note(self, label: str, text: str, reason: str) -> None:
        self.problems.append(f"{label}: {text}: {reason}")

    def fault(self, field: str, value: object, reason: str) -> InventoryError:
        """An error about this node."""
        return InventoryError(self.name, field, str(value), reason)

    def number(self, field: str, value: object) -> Fraction:
        """A quantity of 0 or more. Raises InventoryError."""
        try:
            amount = units.parse_quantity(str(value))
        except units.UnitError as error:
            raise InventoryError(self.name, field, str(value), "not a quantity") from error
        if amount < 0:
            raise self.fault(field, value, "below zero")
        return amount

    def host(self, resource: str, unit: Fraction) -> int:
        """Allocatable CPU or memory in the given unit. Raises InventoryError."""
        amount = self.number(f"status.allocatable.{resource}", self.node.status.allocatable.get(resource, 0))
        return min(int(amount // unit), LARGEST_HOST)

    def whole_label(self, label: str) -> int | None:
        """A label that holds a whole number; None where it is not there. Raises InventoryError."""
        text = self.labels.get(label)
        if text is None:
            return None
        if not text.isascii() or not text.isdigit() or len(text) > _MOST_DIGITS:
            raise self.fault(label, text, f"not a whole number of at most {_MOST_DIGITS} digits")
        return int(text)

    def devices(self, resource: str) -> Devices:
        """What is advertised under a resource. Raises InventoryError."""
        status = self.node.status
        allocatable = self.number(f"status.allocatable.{resource}", status.allocatable.get(resource, 0))
        capacity = self.number(
            f"status.capacity.{resource}", status.capacity.get(resource, status.allocatable.get(resource, 0))
        )
        return Devices(int(max(capacity, allocatable)), int(allocatable))

    def mig_resources(self) -> list[str]:
        """Names under which MIG instances are advertised by themselves (the mixed strategy).

        kubelet keeps the name, with 0 devices, after the last instance has gone.
        """
        named = (name for name in self.node.status.allocatable if name.startswith(_MIG_RESOURCE))
        return [name for name in named if self.devices(name).working]

    # How NVIDIA's device plugin, or GKE's, shares cards

    def replicas(self) -> int | None:
        """Devices that the plugin makes of each card, None where no label tells; feature discovery writes 0 for "not shared".

        Raises InventoryError.
        """
        for label in (names.LABEL_GPU_REPLICAS, names.LABEL_GKE_CLIENTS):
            number = self.whole_label(label)
            if number is not None:
                return number or 1
        return None

    def sharing(self) -> Sharing:
        """How cards are handed out where there are several devices to a card; `UNKNOWN` for a strategy nobody here knows."""
        label, text = names.LABEL_GPU_SHARING, self.labels.get(names.LABEL_GPU_SHARING, "")
        strategy = _STRATEGIES.get(text)
        if strategy is Sharing.EXCLUSIVE and names.LABEL_GKE_SHARING in self.labels:
            label, text = names.LABEL_GKE_SHARING, self.labels[names.LABEL_GKE_SHARING]
            strategy = _GKE_STRATEGIES.get(text)
        if strategy is None:
            self._note(label, text, "not a sharing strategy Headroom knows; its limits are taken to be those of MPS")
            return Sharing.UNKNOWN
        if strategy is Sharing.EXCLUSIVE:
            return Sharing.MPS if self.labels.get(names.LABEL_MPS_CAPABLE) == "true" else Sharing.TIME_SLICING
        return strategy

    def sign_of_sharing(self) -> str:
        """What tells that devices are not cards, as `label: value`; empty where nothing does."""
        labels = self.labels
        for label, value in (
            (names.LABEL_GPU_SHARING, labels.get(names.LABEL_GPU_SHARING, "none")),
            (names.LABEL_GKE_SHARING, labels.get(names.LABEL_GKE_SHARING, "none")),
        ):
            if value not in ("", "none"):
                return f"{label}: {value}"
        product = labels.get(names.LABEL_GPU_PRODUCT, "")
        if product.endswith("-SHARED"):
            return f"{names.LABEL_GPU_PRODUCT}: {product}"
        if labels.get(names.LABEL_MPS_CAPABLE) == "true":
            return f"{names.LABEL_MPS_CAPABLE}: true"
        if self.devices(names.RESOURCE_NVIDIA_GPU_SHARED).all:
            return f"status.capacity: {names.RESOURCE_NVIDIA_GPU_SHARED}"
        if names.ANNOTATION_HAMI_REGISTER in self.node.metadata.annotations:
            return f"annotation {names.ANNOTATION_HAMI_REGISTER}"
        return ""

    def one_device_each(self, sharing: Sharing) -> bool:
        """Whether the plugin refuses a container that asks for several shared devices.

        The plugin's own setting, by label; else what it is by default: on with MPS, off with time-slicing, and on wherever GKE
        shares.
        """
        text = self.labels.get(names.LABEL_ONE_DEVICE_EACH)
        if text is None:
            return sharing in (Sharing.MPS, Sharing.UNKNOWN) or names.LABEL_GKE_SHARING in self.labels
        if text not in _YES_NO:
            self._note(names.LABEL_ONE_DEVICE_EACH, text, "neither true nor false; taken for true")
        return _YES_NO.get(text, True)

    def allocation(self) -> Allocation:
        """Which card the plugin prefers; a word that nobody here knows may mean any of them."""
        text = self.labels.get(names.LABEL_ALLOCATION, Allocation.DISTRIBUTED.value)
        if text in set(Allocation):
            return Allocation(text)
        self._note(names.LABEL_ALLOCATION, text, "not an allocation policy Headroom knows; any card may be picked")
        return Allocation.UNKNOWN
