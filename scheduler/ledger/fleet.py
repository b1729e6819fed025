"""The fleet as a structure of arrays, so that all nodes are filtered and scored at once. `scheduler.ledger.arrays` tells their layout.

Free memory follows one rule, per card, never below 0: free = usable - held - excess - foreign - caution. `usable` is total less
driver reserve; `held` the sum of the shares that pods were promised; `excess` what those pods use beyond their shares, so that each
counts with the larger of the two; `foreign` what is in use and no pod's here. `scheduler.ledger.measured` tells the last two.
`caution` is what pods under way may come to hold there beyond what is foretold of them: see `scheduler.ledger.under_way`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from headroom.domain.model import LARGEST_MIB, Allocation, Card, GpuNode, PinBar, Sharing
from scheduler.ledger.arrays import FleetArrays, IntArray
from scheduler.ledger.card_kinds import CardKind, code_of_kind, cpu_class_of
from scheduler.ledger.under_way import Devices

_SHARING_CODE: Final = {sharing: code for code, sharing in enumerate(Sharing)}
_ALLOCATION_CODE: Final = {allocation: code for code, allocation in enumerate(Allocation)}
PIN_BARS: Final = tuple(PinBar)
"""Why Headroom must not pick a card, by its code in `Fleet.pin_bar`; 0 is no reason at all."""
_PIN_BAR_CODE: Final = {bar: code for code, bar in enumerate(PinBar)}
_LIMITED: Final = (Sharing.MPS, Sharing.UNKNOWN)
"""Ways of sharing that give each client at most the card's memory / slices (NVIDIA's MPS daemon sets such a limit)."""


class HostUse(NamedTuple):
    """What a pod takes of its node besides cards."""

    cpu_milli: int = 0
    memory_mib: int = 0


NO_HOST_USE: Final = HostUse()


class Fleet(FleetArrays):
    """The arrays, and the operations that keep them true."""

    def upsert_node(self, node: GpuNode) -> int:
        """Add a node or replace its description; what its cards hold stays with the card of the same id.

        Returns the row. Held memory of a card that is gone from the description is forgotten here (the ledger still
        knows its pods and says so).
        """
        row = self.row_of.get(node.name)
        if row is None:
            row = self.new_row(node.name)
            cpu_used = memory_used = 0
            carried: dict[str, tuple[int, ...]] = {}
        else:
            cpu_used = int(self.cpu_milli[row] - self.cpu_free_milli[row])
            memory_used = int(self.memory_mib[row] - self.memory_free_mib[row])
            arrays = self._carried()
            carried = {
                card.id: tuple(int(array[row, at]) for array in arrays)
                for at, card in enumerate(self.nodes[node.name].cards)
            }
        if len(node.cards) > self.width:
            self.grow(self.capacity, len(node.cards))
        self.nodes[node.name] = node
        self._describe(row, node)
        self.links_matter |= bool(node.link_gbytes_per_second)
        cpu_class = cpu_class_of(node)
        for at, card in enumerate(node.cards):
            if card.usable_mib:
                self.card_kind[row, at] = code_of_kind(CardKind(card.model, card.usable_mib, cpu_class))
            self._describe_card(row, at, node, card, carried.get(card.id, ()))
        self.cpu_free_milli[row] = node.cpu_milli - cpu_used
        self.memory_free_mib[row] = node.memory_mib - memory_used
        self.weigh(row)
        self.touch(row)
        return row

    def _carried(self) -> tuple[IntArray, ...]:
        """What stays with a card when its node is described anew."""
        return (
            self.held_mib,
            self.excess_mib,
            self.foreign_mib,
            self.measured_mib,
            self.pinned,
            self.plugin,
            self.claimed,
        )

    def _describe(self, row: int, node: GpuNode) -> None:
        self.alive[row] = True
        self.schedulable[row] = node.schedulable
        self.untold[row] = node.name in self.untold_nodes
        self.sharing[row] = _SHARING_CODE[node.sharing]
        self.allocation[row] = _ALLOCATION_CODE[node.allocation]
        self.one_device_each[row] = node.one_device_each
        self.card_count[row] = len(node.cards)
        self.cpu_milli[row] = node.cpu_milli
        self.memory_mib[row] = node.memory_mib
        for array in (
            *self._carried(),
            self.usable_mib,
            self.free_mib,
            self.slices,
            self.slices_free,
            self.caution_mib,
        ):
            array[row] = 0
        self.card_kind[row] = self.pin_bar[row] = self.limit_mib[row] = 0
        self.pinnable[row] = self.model_matched[row] = self.sized[row] = False
        self.claimable[row] = self.by_allocator[row] = False
        self.card_model[row] = self.card_resource[row] = -1

    def _describe_card(self, row: int, at: int, node: GpuNode, card: Card, carried: tuple[int, ...]) -> None:
        self.card_resource[row, at] = self.resource_code.setdefault(node.resource_of(card), len(self.resource_code))
        self.pin_bar[row, at], self.pinnable[row, at] = _PIN_BAR_CODE[card.pin_bar], not card.pin_bar
        self.model_matched[row, at], self.sized[row, at] = card.model_matched, card.sized
        self.claimable[row, at], self.by_allocator[row, at] = card.claimable, card.by_allocator
        self.claims_matter |= card.claimable
        limited = card.sized and (node.sharing in _LIMITED or (card.by_allocator and card.slices > 1))
        self.limit_mib[row, at] = card.vram_mib // card.slices if limited else LARGEST_MIB
        self.usable_mib[row, at] = card.usable_mib
        self.slices[row, at] = card.slices if card.healthy else 0
        self.card_model[row, at] = self.code_of(card.model)
        for array, value in zip(self._carried(), carried, strict=False):
            array[row, at] = value
        self._settle(row, at)

    def _settle(self, row: int, at: int) -> None:
        self.free_mib[row, at] = max(self.room_mib(row, at) - int(self.caution_mib[row, at]), 0)
        given = (self.claimed if self.by_allocator[row, at] else self.plugin)[row, at]
        self.slices_free[row, at] = max(self.slices[row, at] - given, 0)

    def remove_node(self, name: str) -> None:
        """Forget a node and free its row; unknown names are ignored."""
        row = self.row_of.pop(name, None)
        if row is None:
            return
        del self.nodes[name]
        self.names[row] = ""
        self._describe(row, GpuNode(name=""))
        self.alive[row] = self.schedulable[row] = False
        self.cpu_free_milli[row] = self.memory_free_mib[row] = self.promised[row] = 0
        self.under_way.forget(row)
        self.free_rows.append(row)
        self.touch(row)

    def set_untold(self, nodes: Iterable[str]) -> list[str]:
        """Let nothing fit on these nodes: what a pod there holds may not be known. Gives the nodes of before that are open again."""
        before, self.untold_nodes = self.untold_nodes, frozenset(nodes)
        for name in before ^ self.untold_nodes:
            row = self.row_of.get(name)
            if row is not None:
                self.untold[row] = name in self.untold_nodes
                self.touch(row)
        return sorted(before - self.untold_nodes)

    def take(
        self,
        row: int,
        cards: Sequence[int],
        share_mib: Sequence[int],
        *,
        plugin: bool,
        host: HostUse = NO_HOST_USE,
        devices: Devices | None = None,
        promised: int = 0,
    ) -> None:
        """Hold memory (and a slice each when `plugin`) on the given card positions, and `host` of the node itself.

        `devices` is given for a pod of the plugin whose cards are foretold only, or whose devices may come back at any moment.
        `promised` are devices of the node besides, whose cards are not known because kube-scheduler allocates them.
        """
        self._hold(self.plugin if plugin else self.pinned, row, cards, share_mib, 1)
        self._hold_host(row, host, promised, 1)
        self._on_its_way(row, devices, 1, plugin=plugin)

    def give(
        self,
        row: int,
        cards: Sequence[int],
        share_mib: Sequence[int],
        *,
        plugin: bool,
        host: HostUse = NO_HOST_USE,
        devices: Devices | None = None,
        promised: int = 0,
    ) -> None:
        """Undo `take` with the same arguments."""
        self._hold(self.plugin if plugin else self.pinned, row, cards, share_mib, -1)
        self._hold_host(row, host, promised, -1)
        self._on_its_way(row, devices, -1, plugin=plugin)

    def claim(
        self, row: int, cards: Sequence[int], share_mib: Sequence[int], allocations: Sequence[int], *, sign: int = 1
    ) -> None:
        """Hold memory for a resource claim, and so many allocations of each card; with sign -1 no longer."""
        self.claims_matter = True
        for at, number in zip(cards, allocations, strict=True):
            self.claimed[row, at] += sign * (number - 1)  # one is counted with its memory
        self._hold(self.claimed, row, cards, share_mib, sign)
        self.touch(row)

    def room_mib(self, row: int, at: int) -> int:
        """What a card has left beside all that is counted on it, without caution; below 0 where that is too much."""
        foreign = int(self.foreign_mib[row, at])
        taken = int(self.held_mib[row, at] + self.excess_mib[row, at]) + (foreign if foreign > self.idle_mib else 0)
        return int(self.usable_mib[row, at]) - taken

    def taken_by_others(self, places: Any) -> IntArray:
        """MiB in use by nobody here that count on the cards that `places` picks out: all of it, or none up to `idle_mib`."""
        foreign = self.foreign_mib[places]
        taken: IntArray = np.where(foreign > self.idle_mib, foreign, 0)
        return taken

    def _free(self, places: Any) -> IntArray:
        """What `free_mib` must be on the cards that `places` picks out; `_settle` is the same for one."""
        taken = (
            self.held_mib[places] + self.excess_mib[places] + self.caution_mib[places] + self.taken_by_others(places)
        )
        free: IntArray = np.maximum(self.usable_mib[places] - taken, 0)
        return free

    def over(self, row: int) -> npt.NDArray[np.bool_]:
        """[width]: the cards on which pods hold, or may come to hold, more than there is."""
        too_much: npt.NDArray[np.bool_] = self.held_mib[row] + self.caution_mib[row] > self.usable_mib[row]
        return too_much

    def weigh(self, row: int) -> None:
        """Reckon anew what pods under way may come to hold on each card of a row beyond what is foretold."""
        if row not in self.under_way and not self.caution_mib[row].any():
            return
        self.caution_mib[row] = self.under_way.caution_mib(self, row)
        for at in range(int(self.card_count[row])):
            self._settle(row, at)

    def give_many(
        self, rows: IntArray, cards: IntArray, share_mib: IntArray, excess_mib: IntArray, *, plugin: bool
    ) -> None:
        """Give back many shares at once, and what their pods use beyond them.

        `rows`, `cards`, `share_mib` and `excess_mib` have an entry for each share.
        """
        places = (rows, cards)
        np.subtract.at(self.held_mib, places, share_mib)
        np.subtract.at(self.excess_mib, places, excess_mib)
        np.subtract.at(self.plugin if plugin else self.pinned, places, 1)
        self.free_mib[places] = self._free(places)
        given = np.where(self.by_allocator[places], self.claimed[places], self.plugin[places])
        self.slices_free[places] = np.maximum(self.slices[places] - given, 0)
        for row in np.unique(rows).tolist():
            self.touch(row)

    def add_excess(self, row: int, excess_mib: Mapping[int, int], sign: int = 1) -> None:
        """Count what a pod uses beyond its shares, by card position; with sign -1 no longer."""
        for at, mib in excess_mib.items():
            self.excess_mib[row, at] += sign * mib
            self._settle(row, at)
        if excess_mib:
            self.touch(row)

    def _hold(self, counter: IntArray, row: int, cards: Sequence[int], share_mib: Sequence[int], sign: int) -> None:
        for at, mib in zip(cards, share_mib, strict=True):
            self.held_mib[row, at] += sign * mib
            counter[row, at] += sign
            self._settle(row, at)

    def _on_its_way(self, row: int, devices: Devices | None, sign: int, *, plugin: bool) -> None:
        if devices is not None:
            self.under_way.note(row, devices, sign)
        if plugin:
            self.weigh(row)

    def _hold_host(self, row: int, host: HostUse, promised: int, sign: int) -> None:
        self.cpu_free_milli[row] -= sign * host.cpu_milli
        self.memory_free_mib[row] -= sign * host.memory_mib
        self.promise(row, sign * promised)
        self.touch(row)

    def promise(self, row: int, devices: int) -> None:
        """Count so many more devices that kube-scheduler gives to pods, on whichever cards; fewer below 0."""
        if devices:
            self.claims_matter = True
            self.promised[row] += devices
            self.touch(row)

    def devices_left(self, row: int) -> int:
        """Devices that kube-scheduler may yet allocate on a row; below 0 where more are promised than there are."""
        return int(self.slices_free[row][self.by_allocator[row]].sum() - self.promised[row])

    def set_measured(self, row: int, measured_mib: Iterable[int], foreign_mib: Iterable[int] | None = None) -> bool:
        """Store measured use per card position (0 = unknown); returns whether free memory changed.

        Without `foreign_mib`, which says how much of it is no pod's, pods are taken to use what they hold, and the rest is foreign.
        """
        measured, held = list(measured_mib), self.held_mib[row]
        cards = slice(0, len(measured))
        if foreign_mib is None:
            foreign_mib = [max(mib - int(share), 0) for mib, share in zip(measured, held, strict=False)]
        self.measured_mib[row, cards] = measured
        self.foreign_mib[row, cards] = list(foreign_mib)
        free = self._free(row)
        changed = bool((free != self.free_mib[row]).any())
        if changed:
            self.free_mib[row] = free
            self.touch(row)
        return changed

    def dump(self) -> dict[str, Any]:
        """Plain values of every node, for replay; equal fleets give equal dumps."""
        return {"nodes": [self.dump_node(name) for name in sorted(self.nodes)]}

    def dump_node(self, name: str) -> dict[str, Any]:
        """Plain values of one node, for `/debug/snapshot`."""
        node, row = self.nodes[name], self.row_of[name]
        return {
            "name": name,
            "sharing": node.sharing.value,
            "schedulable": node.schedulable,
            "cpu_free_milli": int(self.cpu_free_milli[row]),
            "promised_devices": int(self.promised[row]),
            "memory_free_mib": int(self.memory_free_mib[row]),
            "cards": [
                {
                    "id": card.id,
                    "model": card.model,
                    "usable_mib": card.usable_mib,
                    "held_mib": int(self.held_mib[row, at]),
                    "excess_mib": int(self.excess_mib[row, at]),
                    "foreign_mib": int(self.foreign_mib[row, at]),
                    "caution_mib": int(self.caution_mib[row, at]),
                    "measured_mib": int(self.measured_mib[row, at]),
                    "free_mib": int(self.free_mib[row, at]),
                    "slices": card.slices,
                    "slices_free": int(self.slices_free[row, at]),
                    "claimed": int(self.claimed[row, at]),
                }
                for at, card in enumerate(node.cards)
            ],
        }
