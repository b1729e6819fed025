"""Gives all members of a group their places in one step, or none of them; and keeps those places while the group is under way.

The rules, which docs/groups.md tells in full: nothing is held until so many members exist and all of them fit; what is reserved is
reserved for all at once and ends for all at once, unless one of them is bound already; asking again changes nothing. Every method
that changes something returns what it changed, for `scheduler.cluster.effects`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from headroom.daemon.logs import get_logger
from headroom.domain.model import Placement
from scheduler.cluster.changes import Changes, PodBound, PodGone, SeatLost
from scheduler.cluster.effects import Effects
from scheduler.cluster.host_rules import keeps_itself_apart
from scheduler.cluster.pod_entry import PodEntry, Stage
from scheduler.cluster.pods.groups import ALONE, GroupRecord
from scheduler.cluster.room.open_rows import OpenRows
from scheduler.cluster.room.places import GroupPlaces
from scheduler.cluster.state import ClusterState
from scheduler.ledger.arrays import IntArray
from scheduler.ledger.holding import Holding, HoldingState, LedgerError
from scheduler.placement.groups.together import Seat, Unseated

_VERDICT_SECONDS: Final = 5.0
_FIRST_REST_SECONDS: Final = 30.0
_LONGEST_REST_SECONDS: Final = 900.0
_WAITING: Final = (Stage.WAITING, Stage.REFUSED)
_UNCONFIRMED: Final = (HoldingState.BOUND, HoldingState.BINDING)


@dataclass(slots=True)
class Seated:
    """The place of a member."""

    placement: Placement
    expires_at: float
    trial: bool = False
    """Nothing is reserved there: kube-scheduler did not offer the place that is."""
    changes: Changes = field(default_factory=Changes)


@dataclass(slots=True)
class NotSeated:
    """Why a member has no place."""

    words: str
    lacks_room: bool = False
    """Whether room is what the group waits for."""
    trial: bool = False
    """Its place is reserved on a node that kube-scheduler did not offer."""
    changes: Changes = field(default_factory=Changes)


class Seating:
    """Seats groups. What is reserved for one ends `hold_seconds` after the last of its members was bound, or all were seated."""

    def __init__(self, state: ClusterState, *, hold_seconds: float, monotonic: Callable[[], float]) -> None:
        self._state, self._hold_seconds, self._monotonic = state, hold_seconds, monotonic
        self._book, self._pods, self._ledger = state.groups, state.pods, state.ledger
        self._places = GroupPlaces(state)
        self._log = get_logger(__name__)

    # Questions of kube-scheduler

    def ask(
        self, entry: PodEntry, offered: Callable[[str], bool], rows: Callable[[], IntArray]
    ) -> Seated | NotSeated | None:
        """The place of a pod to which some nodes are offered, which have these rows; None for one that is placed like any other.

        That is a pod without a group, or one more than its group must have.
        """
        if entry.facts.group is None:
            return None
        record = self._book.of(entry.uid) or self._book.show(entry.pod)
        if record is None:
            return None
        holding = self._ledger.holdings.get(entry.uid)
        if holding is not None and entry.uid in record.seated:
            return self._keep(record, entry, holding, offered, rows)
        number = record.number()
        if isinstance(number, str):
            return NotSeated(number, changes=self._give_back(entry))
        missing = number - self._served(record, entry)
        if number == ALONE or (missing <= 0 and not record.topology):
            return None
        missing = max(missing, 1)  # one more than the group must have: it too belongs near the others
        changes = self._give_back(entry)
        there = [uid for uid in record.present() if not self._is_gated(uid)]
        if len(there) < number:
            return NotSeated(f"{record.words} has {len(there)} of {number} members", changes=changes)
        now = self._monotonic()
        if now < record.not_before:
            words = f"{record.words}: not all could be bound in time: it is tried again later"
            return NotSeated(words, changes=changes)
        return self._seat(record, entry, self._chosen(record, entry, missing), rows(), changes)

    def _give_back(self, entry: PodEntry) -> Changes:
        """What a pod had reserved before it was known to be in a group."""
        return self.settle(self._pods.void(entry, "moved", seen_by_scheduler=True))

    def _held(self, record: GroupRecord, but: PodEntry | None = None) -> list[Holding]:
        """What the members hold, bound or reserved, those that are leaving left out."""
        holdings, leaving = self._ledger.holdings, self._pods.leaving
        found = (holdings.get(uid) for uid in record.members if uid not in leaving and (but is None or uid != but.uid))
        return [held for held in found if held is not None and held.request.count]

    def _served(self, record: GroupRecord, but: PodEntry | None = None) -> int:
        """How many members have what they need: they hold it, or have succeeded."""
        return len(self._held(record, but)) + len(record.done())

    def _is_gated(self, uid: str) -> bool:
        entry = self._pods.entries.get(uid)
        return entry is not None and entry.stage is Stage.GATED

    def _waiting(self, record: GroupRecord) -> list[PodEntry]:
        """Members with a GPU that wait for a place, in kube-scheduler's order."""
        entries = (self._pods.entries.get(uid) for uid in record.members)
        found = [entry for entry in entries if entry is not None and entry.stage in _WAITING and entry.request.count]
        return sorted(found, key=lambda entry: entry.rank)

    def _chosen(self, record: GroupRecord, entry: PodEntry, count: int) -> list[PodEntry]:
        """So many waiting members, the first ones, with the one that is asked about among them."""
        others = [other for other in self._waiting(record) if other is not entry]
        return sorted([entry, *others[: count - 1]], key=lambda one: one.rank)

    def _seat(
        self, record: GroupRecord, entry: PodEntry, chosen: list[PodEntry], rows: IntArray, changes: Changes
    ) -> Seated | NotSeated:
        who = tuple(one.uid for one in chosen)
        ground = self._pods.freed.count, who, rows.tobytes(), self._monotonic() // _VERDICT_SECONDS
        if record.verdict == ground:
            return NotSeated(record.verdict_words, lacks_room=True, changes=changes)
        expires_at = self._monotonic() + self._hold_seconds
        found = self._places.find(record, chosen, entry, rows, expires_at=expires_at)
        if isinstance(found, Unseated) and any(one.tried for one in chosen):
            for one in chosen:
                one.tried.clear()
            found = self._places.find(record, chosen, entry, rows, expires_at=expires_at)
        if isinstance(found, Unseated):
            reason = found.words or f"its {len(chosen)} pods without a place do not all fit together now{found.within}"
            words = f"{record.words}: {reason}"
            if found.words:
                return NotSeated(words, changes=changes)
            record.verdict, record.verdict_words = ground, words
            return NotSeated(words, lacks_room=True, changes=changes)
        return self._reserve_all(record, entry, dict(zip([one.uid for one in chosen], found, strict=True)), changes)

    def _reserve_all(
        self, record: GroupRecord, entry: PodEntry, placements: dict[str, Placement], changes: Changes
    ) -> Seated:
        """Turn what the ledger holds into reservations; those that rest must hear of it."""
        record.deadline = self._monotonic() + self._hold_seconds
        record.verdict = ()
        for uid, placement in placements.items():
            one = self._pods.entries[uid]
            rests = one.refusal is not None and one is not entry
            if one is not entry:
                changes += self._pods.name(one, placement, record.deadline)
            changes += self._pods.kept.open(one)
            if rests:
                changes.append(self._pods.freed(placement.node, seen_by_scheduler=False))
        self._book.seat(record, placements)
        nodes = len({one.node for one in placements.values()})
        self._log.info("group_seated", group=record.words, pods=len(placements), nodes=nodes)
        return Seated(placements[entry.uid], record.deadline, changes=changes)

    # Questions of others

    def would_fit(self, record: GroupRecord, rows: IntArray) -> bool:
        """Whether the members that wait could be seated now, of which the first one may be on `rows`. Nothing is held."""
        number = record.number()
        if isinstance(number, str) or self._monotonic() < record.not_before:
            return False
        missing = number - self._served(record)
        waiting = self._waiting(record)
        there = sum(not self._is_gated(uid) for uid in record.present())
        if there < number or not waiting:
            return False
        chosen = waiting[: max(missing, 1)]
        return not isinstance(self._places.look(record, chosen, chosen[0], rows, anew=True), Unseated)

    def missing(self, record: GroupRecord, rows_of: Callable[[PodEntry], IntArray]) -> list[tuple[PodEntry, Seat]]:
        """The members that a group waits to have seated, and where each might be; empty where it does not wait for room."""
        number = record.number()
        if isinstance(number, str) or number == ALONE:
            return []
        chosen = self._waiting(record)[: max(number - self._served(record), 0)]
        apart = any(keeps_itself_apart(one.pod) for one in chosen)
        return [(one, Seat(one.request, rows_of(one), apart)) for one in chosen]

    # While it is under way

    def _keep(
        self,
        record: GroupRecord,
        entry: PodEntry,
        holding: Holding,
        offered: Callable[[str], bool],
        rows: Callable[[], IntArray],
    ) -> Seated | NotSeated:
        """The place that a member has; where that is not offered, another one, without a change of what is reserved."""
        if offered(holding.placement.node):
            return Seated(holding.placement, holding.expires_at)
        for plan in reversed(record.plans):
            there = plan.get(entry.uid)
            if there is not None and offered(there.node):
                return Seated(there, holding.expires_at, trial=True)
        kind = OpenRows.kind_of(entry.pod)
        movers = [entry]
        for uid in record.seated:
            one, held = self._pods.entries.get(uid), self._ledger.holdings.get(uid)
            if one is None or held is None or one is entry or held.state is not HoldingState.RESERVED:
                continue
            if not offered(held.placement.node) and OpenRows.kind_of(one.pod) == kind:
                movers.append(one)
        with self._lifted(movers):
            found = self._places.look(record, movers, entry, rows())
        if isinstance(found, Unseated):
            return NotSeated(f"{record.words}: its places are on nodes that are not offered", trial=True)
        plan = dict(zip([one.uid for one in movers], found, strict=True))
        record.add_plan(plan)
        return Seated(plan[entry.uid], holding.expires_at, trial=True)

    @contextmanager
    def _lifted(self, movers: Sequence[PodEntry]) -> Iterator[None]:
        """Without what is reserved for these pods; it is put back as it was."""
        before = [held for one in movers if (held := self._ledger.release(one.uid)) is not None]
        try:
            yield
        finally:
            for held in before:
                self._ledger.put_back(held)

    def move(self, entry: PodEntry, node: str) -> Changes:
        """Move what is reserved to where kube-scheduler binds a member instead: the whole group, if those places were named together."""
        record = self._book.seated_with(entry.uid)
        if record is None:
            return []
        for plan in reversed(record.plans):
            there = plan.get(entry.uid)
            if there is not None and there.node == node:
                return self._move_by(record, plan)
        return []

    def _move_by(self, record: GroupRecord, plan: dict[str, Placement]) -> Changes:
        record.plans.remove(plan)
        ledger, movers = self._ledger, []
        for uid in plan:
            one, held = self._pods.entries.get(uid), ledger.holdings.get(uid)
            if one is not None and held is not None and held.state is HoldingState.RESERVED:
                movers.append((one, held))
        for one, _ in movers:
            ledger.release(one.uid)
        done: list[PodEntry] = []
        try:
            for one, held in movers:
                self._places.hold(one, plan[one.uid], held.expires_at)
                done.append(one)
        except LedgerError:
            for one in done:
                ledger.release(one.uid)
            for _, held in movers:
                ledger.put_back(held)
            return []
        return [self._pods.freed(held.placement.node, seen_by_scheduler=False) for _, held in movers]

    def may_bind(self, entry: PodEntry, node: str) -> str | None:
        """Why a pod must not be bound to a node now although that has room: its group was not seated, or must be elsewhere."""
        record = self._book.of(entry.uid) if entry.facts.group is not None else None
        if record is None:
            return None
        if record.topology and (words := self._not_there(record, entry, node)) is not None:
            return words
        if entry.uid in record.seated:
            return None
        number = record.number()
        if isinstance(number, int) and (number == ALONE or self._served(record, entry) >= number):
            return None
        holding = self._ledger.holdings.get(entry.uid)
        if holding is not None and holding.state in _UNCONFIRMED:
            return None
        return f"{record.words} has no places reserved: it is seated when it is asked about again"

    def _not_there(self, record: GroupRecord, entry: PodEntry, node: str) -> str | None:
        """Why a member must not be on a node that it has no place on, by what its group requires."""
        holding = self._ledger.holdings.get(entry.uid)
        if holding is not None and holding.placement.node == node:
            return None
        if any(plan[entry.uid].node == node for plan in record.plans if entry.uid in plan):
            return None  # the group moves there as a whole
        return self._places.domains.refusal(record, entry.uid, node)

    # What became of it

    def listen(self, effects: Effects) -> None:
        """Have the changes told that concern groups."""
        effects.on(SeatLost, "groups", lambda change: effects(self.seat_lost(change)))
        effects.on(PodGone, "groups", lambda change: effects(self.pod_gone(change)))
        effects.on(PodBound, "groups", self.pod_bound)

    def settle(self, changes: Changes) -> Changes:
        """Act on lost seats now, and give what is left to tell: told after the pod has a new seat, they would end that one."""
        left = Changes()
        for change in changes:
            left += self.settle(self.seat_lost(change)) if isinstance(change, SeatLost) else [change]
        return left

    def seat_lost(self, change: SeatLost) -> Changes:
        """A member's reservation ended without a binding: it gets it again, or the group gives back what it has."""
        entry = change.entry
        if (record := self._book.unseat(entry.uid)) is None:
            return []
        in_time = self._monotonic() < record.deadline and self._book.of(entry.uid) is record
        if change.end == "bind_failed" and in_time:
            try:
                changes = self._pods.name(entry, change.placement, record.deadline)
            except LedgerError:
                pass  # the node has changed: the group is seated anew
            else:
                self._book.seat(record, [entry.uid])
                return changes
        if change.end == "expired":
            self._rest(record)
            entry.tried.add(change.placement.node)
        return self._dissolve(record)

    def _rest(self, record: GroupRecord) -> None:
        """Nobody came for a place in time: others may have the room before the group is seated again."""
        now = self._monotonic()
        if now < record.not_before:
            return
        seconds = min(_FIRST_REST_SECONDS * 2 ** min(record.failures, 10), _LONGEST_REST_SECONDS)
        record.failures += 1
        record.not_before = now + seconds
        self._log.warning("group_not_bound_in_time", group=record.words, rest_seconds=seconds)

    def _dissolve(self, record: GroupRecord) -> Changes:
        """Give back what is reserved for the others, unless a member is bound or being bound: then the group is under way."""
        if any(held.state in _UNCONFIRMED for held in self._held(record)):
            return []
        changes = Changes()
        for uid in list(record.seated):
            self._book.unseat(uid)
            if (entry := self._pods.entries.get(uid)) is not None:
                changes += self._pods.void(entry, "group_ended")
        return changes

    def pod_gone(self, change: PodGone) -> Changes:
        """A member is gone that was not bound."""
        uid = change.entry.uid
        record = self._book.unseat(uid)
        group = self._book.of(uid)
        if group is not None and uid not in group.finished:
            self._book.forget(uid)
        return [] if record is None else self._dissolve(record)

    def pod_bound(self, change: PodBound) -> None:
        """A member was bound: the others have as long again."""
        record = self._book.unseat(change.entry.uid)
        if record is None:
            return
        record.deadline = self._monotonic() + self._hold_seconds
        for uid in record.seated:
            self._ledger.prolong(uid, record.deadline)
        if not record.seated:
            record.failures, record.not_before = 0, 0.0

    def rested(self, now: float) -> Changes:
        """Tell of groups that may be seated again: kube-scheduler must ask about them."""
        over = [record for record in self._book.records.values() if record.not_before and record.not_before <= now]
        for record in over:
            record.not_before = 0.0
        nodes = self._state.fleet.nodes
        return [self._pods.freed(next(iter(nodes)), seen_by_scheduler=False)] if over and nodes else []
