"""Who belongs to which group: kept from what the watch and kube-scheduler show of pods, those without a GPU included. Pure.

Which of a group's members hold cards is the ledger's to know, and how far each has come is in its record. Here is what the pods of a
group have in common: how many there must be, and which of them were seated together.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, TypeVar

from headroom import names, wire
from headroom.domain.groups import Group, GroupError, GroupKind, group_of
from headroom.domain.model import Placement

Key = tuple[str, GroupKind, str]
Said = TypeVar("Said", int, str)
ALONE: Final = 1
_PLANS_KEPT: Final = 16


@dataclass(slots=True)
class Missing:
    """The object that tells the number of members cannot be read: why, in words."""

    words: str


@dataclass(slots=True, eq=False)
class GroupRecord:
    """What is known of one group. `GroupBook` and `Seating` alone change it; others read."""

    key: Key
    words: str
    """The group as people name it."""
    members: dict[str, Group] = field(default_factory=dict)
    """By UID: what each living member says of its group."""
    sizes: Counter[int] = field(default_factory=Counter)
    """How many members say each size: thousands of them are asked for it again and again."""
    topologies: Counter[str] = field(default_factory=Counter)
    """How many members say each topology; those that say none are not among them."""
    finished: set[str] = field(default_factory=set)
    """Members that have succeeded."""
    owners: dict[str, str] = field(default_factory=dict)
    """By UID: the UID of each member's controller."""
    read: int | Missing | None = None
    """What the group's object says of the number of members; None where it was not read."""
    seated: dict[str, None] = field(default_factory=dict)
    """UIDs of members that were given their places together and are not known to be bound yet."""
    plans: list[dict[str, Placement]] = field(default_factory=list)
    """Other places, that were named where kube-scheduler did not offer the reserved ones. Nothing is held for them."""
    deadline: float = 0.0
    """When what is reserved ends, unless a member is bound before."""
    failures: int = 0
    """How many times in a row it was seated and not all were bound in time."""
    not_before: float = 0.0
    """It is not seated again until then."""
    verdict: tuple[object, ...] = ()
    """What the last refusal followed from: while that is the same, so is the answer."""
    verdict_words: str = ""

    @property
    def source_group(self) -> Group | None:
        """What a member says whose group is described by an object; None where no member names one."""
        return next((group for group in self.members.values() if group.source is not None), None)

    def done(self) -> set[str]:
        """Members that have succeeded: they need no place, and are not missing. Those of an earlier run do not count.

        An earlier run is one of whose controller no pod is alive: a CronJob's, say, whose pods all name one group.
        """
        alive = {owner for uid, owner in self.owners.items() if uid not in self.finished}
        return {uid for uid in self.finished if self.owners[uid] in alive}

    def present(self) -> set[str]:
        """Members that are alive, and those that are done."""
        return (self.members.keys() - self.finished) | self.done()

    @property
    def topology(self) -> str:
        """Within what all members must be: what any of them says (`Group.topology`). Empty: wherever they fit."""
        return next(iter(self.topologies), "")

    def number(self) -> int | str:
        """How many members must be placed together, or why that is not known, in words."""
        if len(self.topologies) > 1:
            said = ", ".join(sorted(self.topologies))
            return f"{self.words}: its members disagree on {names.GROUP_TOPOLOGY}: {said}"
        if isinstance(self.read, int):
            return self.read
        if len(self.sizes) > 1:
            sizes = ", ".join(str(size) for size in sorted(self.sizes))
            return f"{self.words}: its members disagree on their number: {sizes}"
        for size in self.sizes:
            return size
        if isinstance(self.read, Missing):
            return f"{self.words}: {self.read.words}"
        return f"{self.words}: how many members it takes is being read"

    def put(self, uid: str, group: Group) -> None:
        """Note what a member says."""
        self.drop(uid)
        self.members[uid] = group
        if group.min_count is not None:
            self.sizes[group.min_count] += 1
        if group.topology:
            self.topologies[group.topology] += 1

    def drop(self, uid: str) -> None:
        """Forget what a member said."""
        group = self.members.pop(uid, None)
        if group is None:
            return
        if group.min_count is not None:
            _count_down(self.sizes, group.min_count)
        if group.topology:
            _count_down(self.topologies, group.topology)

    def add_plan(self, plan: dict[str, Placement]) -> None:
        """Remember other places for members that are seated."""
        self.plans.append(plan)
        del self.plans[:-_PLANS_KEPT]


def _count_down(counts: Counter[Said], said: Said) -> None:
    counts[said] -= 1
    if not counts[said]:
        del counts[said]


class GroupBook:
    """The groups by key, and the group of each pod by UID."""

    def __init__(self) -> None:
        self.records: dict[Key, GroupRecord] = {}
        """Read only."""
        self._of: dict[str, GroupRecord] = {}
        self._seated: dict[str, GroupRecord] = {}

    def show(self, pod: wire.Pod) -> GroupRecord | None:
        """Take in a pod that is there; gives its group. One whose group cannot be understood is in none."""
        uid = pod.metadata.uid
        try:
            group = None if pod.metadata.deletion_timestamp is not None else group_of(pod)
        except GroupError:
            group = None
        known = self._of.get(uid)
        if known is not None and (group is None or group.key != known.key):
            self.forget(uid)
        if group is None:
            return None
        record = self.records.get(group.key)
        if record is None:
            record = self.records[group.key] = GroupRecord(group.key, group.words)
        if record.members.get(uid) != group:
            record.put(uid, group)
        record.finished.discard(uid)
        record.owners[uid] = next((owner.uid for owner in pod.metadata.owner_references if owner.controller), "")
        self._of[uid] = record
        return record

    def finish(self, pod: wire.Pod) -> None:
        """Take in that a pod has ended but is still there: one that has succeeded stays a member."""
        if pod.status.phase != "Succeeded":
            self.forget(pod.metadata.uid)
        elif (record := self.show(pod)) is not None:
            record.finished.add(pod.metadata.uid)

    def forget(self, uid: str) -> None:
        """Take in that a pod is gone, or in no group any more."""
        record = self._of.pop(uid, None)
        if record is None:
            return
        record.drop(uid)
        del record.owners[uid]
        record.finished.discard(uid)
        if not record.members:
            del self.records[record.key]

    def of(self, uid: str) -> GroupRecord | None:
        """The group of a pod."""
        return self._of.get(uid)

    def binds(self, uid: str) -> bool:
        """Whether the pod must be placed together with others."""
        record = self._of.get(uid)
        return record is not None and record.number() != ALONE

    def seat(self, record: GroupRecord, uids: Iterable[str]) -> None:
        """Note that members were given their places together."""
        for uid in uids:
            self.unseat(uid)
            record.seated[uid] = None
            self._seated[uid] = record
        record.plans.clear()

    def unseat(self, uid: str) -> GroupRecord | None:
        """Note that a member does not wait in its place any more; gives the group that it was seated with."""
        record = self._seated.pop(uid, None)
        if record is not None:
            del record.seated[uid]
        return record

    def seated_with(self, uid: str) -> GroupRecord | None:
        """The group that a member was seated with and waits in its place for; None where it was not."""
        return self._seated.get(uid)
