"""The result of one reading of a node's cards, by NVML, from a script or from a recording.

A field that could not be read holds a `Missing` that says why, never a zero: a zero is a measurement.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Protocol, TypeAlias

from headroom.domain.card_models import label_value
from headroom.domain.links import Links
from headroom.errors import HeadroomError


class Missing(StrEnum):
    """Why a field has no value."""

    NOT_SUPPORTED = "not_supported"  # this card, driver or mode has no such reading
    NO_PERMISSION = "no_permission"
    NOT_AVAILABLE = "not_available"  # the driver answered with its mark for "no value", or with an impossible one
    FAILED = "failed"  # the call failed in any other way


Number: TypeAlias = float | Missing
Whole: TypeAlias = int | Missing

_LARGEST_COUNTER: Final = 2**62
"""Readings above it are marks, not measurements: NVML and DCGM use values near 2^63 and 2^64 for "no value"."""


UNKNOWN_ERROR: Final = "Unknown Error"
"""NVML's words for its error 999. A container that lost its devices (a reload of systemd, an update of the runtime:
nvidia-container-toolkit#48, #1227) gets it for every call from then on, while the cards are well."""


class ReaderError(HeadroomError):
    """No card can be read at all: no driver, driver lost, library missing. The text says which.

    `out_of_reach` tells that it may be this process alone that cannot reach the cards.
    """

    def __init__(self, message: str, *, out_of_reach: bool = False) -> None:
        super().__init__(message)
        self.out_of_reach = out_of_reach


class ScriptError(HeadroomError):
    """A scripted reading that is not what it should be; names the file, the field and the value."""


@dataclass(frozen=True, slots=True)
class ProcessUse:
    """One process on one card."""

    pid: int
    memory_used_bytes: Whole = Missing.NOT_SUPPORTED
    sm_ratio: Number = Missing.NOT_SUPPORTED
    """Share of the card's multiprocessor time since the last reading, 0 to 1."""
    pod_uid: str = ""
    """Set by readers that know it (a script); otherwise found through the process's cgroup."""
    container_id: str = ""


@dataclass(frozen=True, slots=True)
class CardReading:
    """One card, or one MIG instance, as the driver describes it now."""

    id: str
    """`GPU-...` or `MIG-...` UUID."""
    index: int
    """The driver's index of the card (of the parent for a MIG instance); it may change when the driver restarts."""
    model: str
    """Product name, spelt as GPU feature discovery spells it."""
    memory_total_bytes: Whole = Missing.NOT_SUPPORTED
    memory_reserved_bytes: Whole = Missing.NOT_SUPPORTED
    """What the driver keeps for itself; part of the total, of neither used nor free."""
    memory_used_bytes: Whole = Missing.NOT_SUPPORTED
    memory_free_bytes: Whole = Missing.NOT_SUPPORTED
    utilization_ratio: Number = Missing.NOT_SUPPORTED
    """Share of time that any kernel ran, 0 to 1. Near 1 with a single user: it says busy or idle, not how full."""
    memory_utilization_ratio: Number = Missing.NOT_SUPPORTED
    """Share of time that device memory was read or written, 0 to 1."""
    sm_ratio: Number = Missing.NOT_SUPPORTED
    """Sum of the processes' multiprocessor shares, 0 to 1, where the driver gives them."""
    power_watts: Number = Missing.NOT_SUPPORTED
    power_limit_watts: Number = Missing.NOT_SUPPORTED
    energy_millijoules: Whole = Missing.NOT_SUPPORTED
    """Counter since the driver was loaded."""
    energy_at: float | None = None
    """When the counter was read, in the clock of `Reading.at`; None: now. It is dear to ask for, and asked for less often."""
    temperature_celsius: Number = Missing.NOT_SUPPORTED
    ecc_uncorrected: Whole = Missing.NOT_SUPPORTED
    """Uncorrected memory errors since the driver was loaded."""
    row_remap_broken: bool | Missing = Missing.NOT_SUPPORTED
    """A row remapping is pending or has failed: the card needs a reset or a repair."""
    mig: bool | Missing = Missing.NOT_SUPPORTED
    """Whether the card is partitioned; its instances are then cards of their own."""
    parent: str = ""
    """UUID of the physical card of a MIG instance."""
    processes: tuple[ProcessUse, ...] | Missing = Missing.NOT_SUPPORTED

    @property
    def allocatable(self) -> bool:
        """Whether pods get it: a partitioned card is not given out, its instances are."""
        return self.mig is not True


@dataclass(frozen=True, slots=True)
class BrokenCard:
    """A card that is there but cannot be read: fallen off the bus, needs a reset, failing."""

    index: int
    reason: str
    """From a fixed vocabulary: `lost`, `reset_required`, `unreadable`."""
    id: str = ""
    """Empty when not even the UUID can be had; known from an earlier reading otherwise."""


@dataclass(frozen=True, slots=True)
class Fault:
    """An event the driver reported about a card since the last reading."""

    card: str
    xid: int
    """NVIDIA's error number; 0 for a fault without one."""


@dataclass(frozen=True, slots=True)
class Reading:
    """All cards of a node at one moment."""

    at: float
    """Monotonic seconds."""
    cards: tuple[CardReading, ...] = ()
    broken: tuple[BrokenCard, ...] = ()
    faults: tuple[Fault, ...] = ()
    driver: str = ""
    links: Links | None = None
    """How the cards are linked; None where there are fewer than two, or it cannot be told."""
    links_problem: str = ""
    """Why it cannot be told, or what was corrected, in words."""
    missing: tuple[tuple[str, str, Missing], ...] = field(default=(), compare=False)
    """(card, field, why) of every field without a value, for the counters and for `--once`."""


class Reader(Protocol):
    """A source of readings. Both calls may block and are made from a thread."""

    def read(self, now: float) -> Reading:
        """Look at all cards. Raises ReaderError when none can be read; one bad card is a BrokenCard instead."""
        ...

    def wait(self, seconds: float) -> bool:
        """Return True as soon as a card reports a fault, False after `seconds` without one."""
        ...

    def close(self) -> None:
        """Let go of the driver."""
        ...


def known(value: Number | Whole) -> float | None:
    """The number, or None where it is missing."""
    return None if isinstance(value, Missing) else value


def counter(value: int) -> Whole:
    """A reading of an unsigned counter, with the marks for "no value" told apart."""
    return value if 0 <= value < _LARGEST_COUNTER else Missing.NOT_AVAILABLE


def ratio_of_percent(value: int) -> Number:
    """A percentage as a ratio; anything outside 0..100 is a mark, not a measurement."""
    return value / 100 if 0 <= value <= 100 else Missing.NOT_AVAILABLE


def model_name(product: str) -> str:
    """`NVIDIA A100-SXM4-80GB` as GPU feature discovery spells it in `nvidia.com/gpu.product`."""
    return label_value(product)


def missing_fields(card: CardReading) -> list[tuple[str, str, Missing]]:
    """(card, field, why) for each field of the card without a value."""
    return [
        (card.id, name, value) for name in CardReading.__slots__ if isinstance(value := getattr(card, name), Missing)
    ]
