"""The cards of one kind from a node's labels and what its device plugin advertises. Pure."""

import re
from typing import Final

from headroom import names, units
from headroom.domain.accelerators import GIB, GKE_MODELS, NVIDIA, Accelerator
from headroom.domain.card_models import is_mig, plain_model
from headroom.domain.labels.node_facts import NodeFacts
from headroom.domain.model import LARGEST_MIB, MOST_SHARES, MOST_SLICES, Card, PinBar

# What the driver keeps of a card, where labels give the total only: about 450 MiB on a T4 to 870 MiB on an A100 with
# 80 GB (nvidia-smi -q, "Reserved"). Known models say it exactly; for others this is on the safe side of most.
_UNKNOWN_RESERVE_MIB: Final = 640
_LARGEST_RESERVE_MIB: Final = 1024
_MIG_RESERVE_FRACTION: Final = 64
_GIGABYTES: Final = re.compile(r"(\d+)G")
_MIG_PROFILE_GB: Final = re.compile(r"\d+g\.(\d+)gb.*")
_MIG_INVALID: Final = "-MIG-INVALID"
_REMEDY: Final = f"devices are not cards here: label the node {names.LABEL_GPU_COUNT} or {names.LABEL_GPU_REPLICAS}, or run the agent"


def usual_reserve(kind: Accelerator, model: str, total_mib: int) -> int:
    """What the driver keeps of a card of which only the total is known."""
    if kind is not NVIDIA:
        return 0
    if is_mig(model):
        return total_mib // _MIG_RESERVE_FRACTION
    known = kind.known_vram_mib.get(model)
    usual = _UNKNOWN_RESERVE_MIB if known is None else min(max(total_mib - known, 0), _LARGEST_RESERVE_MIB)
    return min(usual, total_mib)


class LabelledCards:
    """Reads the cards of one kind. `resource` is empty where no plugin advertises the kind.

    `hand_labels` tells whether the labels that people write (`headroom.dev/card-*`) speak of this kind.
    """

    def __init__(self, facts: NodeFacts, kind: Accelerator, resource: str, *, hand_labels: bool) -> None:
        self._facts, self._kind, self._resource = facts, kind, resource
        self._labels = facts.labels
        self._by_hand = hand_labels

    def read(self) -> tuple[Card, ...]:
        """The cards; none where there is no sign of the kind. Raises InventoryError."""
        if not self._resource:
            if self._kind is not NVIDIA or not (self._facts.whole_label(names.LABEL_GPU_COUNT) and self._named()):
                return ()
            self._refuse_mixed(whether_advertised=False)
            return self._cards(self._facts.whole_label(names.LABEL_GPU_COUNT) or 0, self._facts.replicas() or 1)
        devices, working = self._facts.devices(self._resource)
        if self._kind is not NVIDIA:
            # Which of them work does not matter: no memory is told apart, and the plugin hands out those that do.
            return self._cards(working, 1) if working <= MOST_SHARES else self._refuse_many(devices)
        self._refuse_mixed(whether_advertised=True)
        self._refuse_unnamed()
        count, replicas = self._count_and_replicas(devices)
        if working < devices:
            raise self._facts.fault(
                f"status.allocatable.{self._resource}", f"{working} of {devices}",
                "some devices do not work, and only the agent's annotation could tell which",
            )  # fmt: skip
        if count > MOST_SHARES or replicas > MOST_SLICES:
            self._refuse_many(devices)
        return self._cards(count, replicas)

    def _refuse_many(self, devices: int) -> tuple[Card, ...]:
        raise self._facts.fault(
            f"status.capacity.{self._resource}", devices, f"more than {MOST_SHARES} cards on one node"
        )

    def _refuse_mixed(self, *, whether_advertised: bool) -> None:
        if self._labels.get(names.LABEL_MIG_STRATEGY) != "mixed":
            return
        mixed = self._facts.mig_resources()
        if mixed or not whether_advertised:
            beside = f"beside {', '.join(mixed)} " if mixed else ""
            raise self._facts.fault(names.LABEL_MIG_STRATEGY, "mixed", f"whole cards {beside}cannot be told apart")

    def _refuse_unnamed(self) -> None:
        name = self._named()
        if not name:
            raise self._facts.fault(
                f"status.allocatable.{self._resource}", self._facts.devices(self._resource).working,
                f"no label names the card model ({' or '.join(self._kind.product_labels)})",
            )  # fmt: skip
        if name.endswith(_MIG_INVALID):
            raise self._facts.fault(
                names.LABEL_GPU_PRODUCT, name, "MIG is not set up as the plugin's strategy wants it"
            )

    def _count_and_replicas(self, devices: int) -> tuple[int, int]:
        """Cards, and devices of each, of an NVIDIA node. What labels say and what is advertised must agree."""
        count, replicas = self._facts.whole_label(names.LABEL_GPU_COUNT), self._facts.replicas()
        sign = self._facts.sign_of_sharing()
        if replicas is None and not sign:
            replicas = 1
        if replicas is None and count and devices % count == 0:
            replicas = devices // count
        if replicas is None and count is None:
            raise self._facts.fault(sign, devices, _REMEDY)
        if count is None and replicas is not None and devices % replicas == 0:
            count = devices // replicas
        if count is None or replicas is None or count * replicas != devices:
            by_gke = names.LABEL_GKE_CLIENTS in self._labels and names.LABEL_GPU_REPLICAS not in self._labels
            told = names.LABEL_GKE_CLIENTS if by_gke else names.LABEL_GPU_REPLICAS
            raise self._facts.fault(
                f"{names.LABEL_GPU_COUNT} x {told} and {self._resource}",
                f"{self._labels.get(names.LABEL_GPU_COUNT, '?')} x {replicas or '?'} and {devices}",
                "labels and advertised devices contradict each other",
            )
        return count, replicas

    def _cards(self, count: int, replicas: int) -> tuple[Card, ...]:
        model = self._named() or self._kind.vendor
        vram_mib, reserve_mib = self._memory(model)
        bar = PinBar.MIG_BY_POSITION if is_mig(model) else PinBar.NONE
        return tuple(
            Card(str(at), at, model, vram_mib, reserve_mib, replicas, pin_bar=bar)
            for at in range(min(count, MOST_SHARES))
        )

    def _named(self) -> str:
        """The card model by label, empty where none names it."""
        by_hand = (names.LABEL_CARD_MODEL,) if self._by_hand else ()
        for label in (*by_hand, *self._kind.product_labels):
            if self._labels.get(label):
                return plain_model(self._labels[label])
        gke = self._labels.get(names.LABEL_GKE_ACCELERATOR) if self._kind is NVIDIA else None
        if not gke:
            return ""
        model = GKE_MODELS.get(gke, plain_model(gke))
        partition = self._labels.get(names.LABEL_GKE_PARTITION)
        return f"{model}-MIG-{partition}" if partition else model

    # Memory

    def _memory(self, model: str) -> tuple[int, int]:
        """Memory of each card and what the driver keeps of it; nothing of both where neither label nor table tells."""
        known = self._kind.known_vram_mib.get(model)
        stated = self._stated_memory()
        if stated is None:
            return known or self._of_gke_partition() or 0, self._reserve(0)
        return stated, self._reserve(usual_reserve(self._kind, model, stated))

    def _of_gke_partition(self) -> int | None:
        """Memory of a MIG profile by its name. A profile's gigabytes are nominal; an instance has a little more."""
        profile = _MIG_PROFILE_GB.fullmatch(self._labels.get(names.LABEL_GKE_PARTITION, ""))
        return int(profile.group(1)) * 10**9 // 2**20 if profile else None

    def _reserve(self, usual_mib: int) -> int:
        text = self._labels.get(names.LABEL_CARD_RESERVE) if self._by_hand else None
        return usual_mib if text is None else -int(-self._facts.number(names.LABEL_CARD_RESERVE, text) // units.MIB)

    def _stated_memory(self) -> int | None:
        own = self._labels.get(names.LABEL_CARD_VRAM) if self._by_hand else None
        if own is not None:
            mib = int(self._facts.number(names.LABEL_CARD_VRAM, own) // units.MIB)
            if mib <= 0:
                raise self._facts.fault(names.LABEL_CARD_VRAM, own, "a card has at least 1 MiB")
            return self._at_most(names.LABEL_CARD_VRAM, own, mib)
        for label in self._kind.memory_labels:
            text = self._labels.get(label)
            if text is None:
                continue
            gigabytes = _GIGABYTES.fullmatch(text)
            mib = int(gigabytes.group(1)) * GIB if gigabytes else self._facts.whole_label(label) or 0
            return self._at_most(label, text, mib) or None  # 0: the vendor's discovery could not tell
        return None

    def _at_most(self, label: str, text: str, mib: int) -> int:
        if mib > LARGEST_MIB:
            raise self._facts.fault(label, text, f"a card has at most {LARGEST_MIB} MiB")
        return mib
