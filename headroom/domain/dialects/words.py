"""The parts of a dialect: words that state sizes, words that count cards, words that come beside them, and annotations."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

from headroom.domain.model import ANY_CARD, CardChoice, Order
from headroom.errors import HeadroomError


class WordError(HeadroomError, ValueError):
    """A value that cannot be understood; the text is the reason alone."""


class Unit(StrEnum):
    """What a number under a size's name means."""

    BYTES = "bytes, rounded up to a MiB"
    MIB = "MiB"
    GPUSHARE = "GiB, or MiB where nodes advertise MiB"
    MILLI = "thousandths of a card"
    PERCENT = "hundredths of a card"


@dataclass(frozen=True, slots=True)
class Size:
    """A resource that states how much each share takes of a card."""

    name: str
    unit: Unit
    alone: str = ""
    """Why no device of a device plugin, and no other family's count, may stand beside it; empty where they may."""

    @property
    def in_thousandths(self) -> bool:
        """Whether it states a part of a card rather than memory."""
        return self.unit in (Unit.MILLI, Unit.PERCENT)


@dataclass(frozen=True, slots=True)
class Count:
    """A resource that counts cards which Headroom picks."""

    name: str
    sizes: frozenset[str] | None = None
    """Sizes that it goes with; None for any that may have company."""
    needs_size: bool = False
    """Whether it means nothing by itself."""


@dataclass(frozen=True, slots=True)
class Companion:
    """A resource that is accepted and has no effect."""

    name: str
    why: str
    """Why not, for the Event."""
    implies_card: bool = False
    """Whether a container with nothing else asks for a whole card by it."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a pod's annotations say about its cards."""

    choice: CardChoice = ANY_CARD
    order: Order = Order.POLICY

    def choosing(self, **changes: object) -> "Wishes":
        """The same with a narrower choice."""
        return replace(self, choice=replace(self.choice, **changes))  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Annotation:
    """An annotation of a pod. Exactly one of `read`, `ignored` and `resource` says what becomes of it."""

    name: str
    example: str
    meaning: str
    read: Callable[[Wishes, str], Wishes] | None = None
    """The wishes with this one added; raises WordError for a value that is refused."""
    ignored: str = ""
    """Why it has no effect."""
    resource: str = ""
    """The resource that the admission policy turns it into."""
    refused: str = ""
    """A value that is refused, for the table."""


@dataclass(frozen=True, slots=True)
class Family:
    """The words of one scheduler."""

    name: str
    sizes: tuple[Size, ...] = ()
    counts: tuple[Count, ...] = ()
    companions: tuple[Companion, ...] = ()
    annotations: tuple[Annotation, ...] = ()
    examples: tuple[str, ...] = ()
    """Limits of containers, as the documentation shows them."""
