"""Which cards may be used: withdrawn at the first sign, given back after a settled time. Pure.

A card that cannot be read counts as unhealthy: "unknown" is never taken for "fine".
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from agent.cards.reader import CardReading, Missing, Reading

APPLICATION_XIDS: Final = frozenset({13, 31, 43, 45, 68, 109})
"""Errors of the program on the card, not of the card (NVIDIA's Xid catalogue; its device plugin passes over the same ones)."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a card may be used, and the reason in stable words when not."""

    healthy: bool
    reason: str = ""


@dataclass(slots=True)
class _State:
    reason: str = ""
    bad_at: float = float("-inf")
    ecc: int | None = None


@dataclass(slots=True)
class HealthTracker:
    """Remembers, per card, when it was last seen in trouble.

    Reasons: `lost`, `reset_required`, `unreadable` (cannot be read), `gone` (no longer listed), `driver_lost`,
    `row_remap`, `ecc` (a new uncorrected error), `xid N`. The inventory adds `withheld` and `excluded`.
    """

    settle_seconds: float
    """How long a card must have been without trouble before it is given out again."""
    ignored_xids: frozenset[int] = APPLICATION_XIDS
    last: dict[str, Verdict] = field(default_factory=dict)
    """The latest verdicts."""
    _states: dict[str, _State] = field(default_factory=dict)
    _parents: dict[str, str] = field(default_factory=dict)

    def expect(self, cards: Iterable[str]) -> None:
        """Name cards that should be there, for example those a predecessor had published."""
        for card in cards:
            self._states.setdefault(card, _State())

    def forget(self, card: str) -> None:
        """Look for a card no longer: it has been replaced."""
        self._states.pop(card, None)
        self._parents.pop(card, None)
        self.last.pop(card, None)

    def update(self, reading: Reading) -> dict[str, Verdict]:
        """The verdict on every card ever seen, after a reading."""
        now = reading.at
        troubles = {card.id: card.reason for card in reading.broken if card.id}
        for card in reading.cards:
            trouble = self._trouble(card)
            if trouble:
                troubles[card.id] = trouble
            self._parents[card.id] = card.parent
        for fault in reading.faults:
            if fault.xid not in self.ignored_xids:
                troubles.setdefault(fault.card, f"xid {fault.xid}" if fault.xid else "ecc")
        present = {card.id for card in reading.cards}
        for card_id in self._states:
            if card_id not in present:
                troubles.setdefault(card_id, "gone")
        return self._settle(troubles, present, now)

    def lost(self, now: float) -> dict[str, Verdict]:
        """The verdict on every card ever seen, when the driver could not be asked."""
        return self._settle(dict.fromkeys(self._states, "driver_lost"), set(), now)

    def _trouble(self, card: CardReading) -> str:
        state = self._states.setdefault(card.id, _State())
        before = state.ecc
        if not isinstance(card.ecc_uncorrected, Missing):
            state.ecc = card.ecc_uncorrected
        total = card.memory_total_bytes
        # A card that shares the host's memory has none of its own to report; any other must.
        if total is not Missing.NOT_SUPPORTED and (isinstance(total, Missing) or total <= 0):
            return "unreadable"
        if card.row_remap_broken is True:
            return "row_remap"
        if before is not None and state.ecc is not None and state.ecc > before:
            return "ecc"
        return ""

    def _settle(self, troubles: Mapping[str, str], present: set[str], now: float) -> dict[str, Verdict]:
        for card_id, reason in troubles.items():
            state = self._states.setdefault(card_id, _State())
            state.reason, state.bad_at = reason, now
        verdicts = {}
        for card_id, state in self._states.items():
            if card_id in present and card_id not in troubles and now - state.bad_at >= self.settle_seconds:
                state.reason = ""
            verdicts[card_id] = Verdict(not state.reason, state.reason)
        for card_id, parent in self._parents.items():
            above = verdicts.get(parent)
            if above is not None and not above.healthy and verdicts[card_id].healthy:
                verdicts[card_id] = above
        self.last = verdicts
        return verdicts
