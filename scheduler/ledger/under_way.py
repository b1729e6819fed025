"""Pods in slice mode whose cards are not known from kubelet yet, and the most that each card may have to hold for them. Pure.

The scheduler foretells which card the device plugin will pick; kubelet may take pods in in another order than they were bound,
between equal cards the plugin goes by the order of a hash table, and devices of a pod that is being deleted may come back in between.
So until kubelet's word is in, no card may be promised away that a pod under way may end up on. Not each pod on each card, which would
refuse far too much, but the worst that can happen: a card that can come to give n of the devices under way (see
`headroom.domain.device_plugin.most_devices`) must have room for the n largest shares among them.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headroom.domain.device_plugin import most_devices
from headroom.domain.model import Allocation

if TYPE_CHECKING:
    from scheduler.ledger.fleet import Fleet


@dataclass(frozen=True, slots=True)
class Devices:
    """The devices of one pod that are not where they will stay."""

    cards: tuple[int, ...]
    """Positions that they are counted on, one for each device."""
    share_mib: tuple[int, ...]
    """What is counted there for each."""
    resource: int = 0
    """Code of the extended resource that they are handed out under."""
    need_mib: tuple[int, ...] = ()
    """What one of them would hold on each card of the node; empty for devices that may come back, whose cards are known."""

    @property
    def leaving(self) -> bool:
        """Whether their cards are known, and they may come back at any moment."""
        return not self.need_mib


class UnderWay:
    """Devices by row of the fleet. The fleet's arrays count all of them where they are foretold, or known, to be."""

    def __init__(self) -> None:
        self._of_row: dict[int, Counter[Devices]] = {}

    def __contains__(self, row: int) -> bool:
        return row in self._of_row

    def copy(self) -> "UnderWay":
        """An independent copy."""
        other = UnderWay()
        other._of_row = {row: devices.copy() for row, devices in self._of_row.items()}
        return other

    def of_row(self, row: int) -> "UnderWay":
        """What is known of one row, as row 0 of a fleet of its own."""
        other = UnderWay()
        if row in self._of_row:
            other._of_row[0] = self._of_row[row].copy()
        return other

    @property
    def rows(self) -> list[int]:
        """Rows with any."""
        return list(self._of_row)

    def note(self, row: int, devices: Devices, sign: int) -> None:
        """Count devices, or with sign -1 no longer."""
        here = self._of_row.setdefault(row, Counter())
        here[devices] += sign
        if not here[devices]:
            del here[devices]
        if not here:
            del self._of_row[row]

    def forget(self, row: int) -> None:
        """Drop what is known of a row whose node is gone."""
        self._of_row.pop(row, None)

    def caution_mib(self, fleet: "Fleet", row: int) -> list[int]:
        """MiB by card position that pods under way may come to hold beyond what is counted of them."""
        caution = [0] * fleet.width
        for resource in {devices.resource for devices in self._of_row.get(row, ())}:
            reach = self._reach(fleet, row, resource)
            for at, load in enumerate(reach.load_mib):
                caution[at] += max(load - reach.counted_mib[at], 0)
        return caution

    def has_room(
        self, fleet: "Fleet", row: int, resource: int, need_mib: Sequence[int], count: int, allowed: Sequence[bool]
    ) -> bool:
        """Whether every card has room whatever happens when `count` devices more are under way, each of `need_mib` by position.

        The node must have so many devices left, which the cards where they are foretold do not tell. Cards that are not `allowed` must
        not come to give one. What is too much already, and becomes no worse, is not held against it.
        """
        before = self._reach(fleet, row, resource)
        after = self._reach(fleet, row, resource, need_mib, count)
        if after.devices > after.places:
            return False
        for at in range(int(fleet.card_count[row])):
            if after.most[at] and not allowed[at]:
                return False
            room = fleet.room_mib(row, at) + before.counted_mib[at]
            if after.load_mib[at] > max(room, before.load_mib[at]):
                return False
        return True

    def _reach(self, fleet: "Fleet", row: int, resource: int, more_mib: Sequence[int] = (), more: int = 0) -> "_Reach":
        cards = int(fleet.card_count[row])
        ours = (fleet.card_resource[row, :cards] == resource).tolist()
        given, leaving, counted = fleet.plugin[row, :cards].tolist(), [0] * cards, [0] * cards
        waiting: list[tuple[Sequence[int], int]] = [(more_mib, more)] if more else []
        several = more > 1
        for devices, pods in self._of_row.get(row, Counter[Devices]()).items():
            if devices.resource != resource:
                continue
            for at, mib in zip(devices.cards, devices.share_mib, strict=True):
                if devices.leaving:
                    leaving[at] += pods
                else:
                    given[at] -= pods
                    counted[at] += pods * mib
            if not devices.leaving:
                waiting.append((devices.need_mib, pods * len(devices.cards)))
                several = several or len(devices.cards) > 1
        policy = tuple(Allocation)[int(fleet.allocation[row])]
        if policy is Allocation.SPREAD and several:
            policy = Allocation.UNKNOWN  # it goes by what each pod has, which differs from pod to pod
        slices = [number if own else 0 for number, own in zip(fleet.slices[row, :cards].tolist(), ours, strict=True)]
        given = [max(number, 0) if own else 0 for number, own in zip(given, ours, strict=True)]
        leaving = [min(gone, number) for gone, number in zip(leaving, given, strict=True)]
        wanted = sum(times for _, times in waiting)
        most = most_devices(given, leaving, slices, wanted, policy)
        load = [
            sum(sorted((need[at] for need, times in waiting for _ in range(times)), reverse=True)[:number])
            for at, number in enumerate(most)
        ]
        return _Reach(most, load, counted, wanted, sum(slices) - sum(given))


@dataclass(frozen=True, slots=True)
class _Reach:
    """By card position: devices that a card can come to give, MiB that it would hold of them, MiB that are counted of them there."""

    most: Sequence[int]
    load_mib: Sequence[int]
    counted_mib: Sequence[int]
    devices: int
    """Under way, on all cards."""
    places: int
    """Devices left for them; those of pods that are being deleted are not."""
