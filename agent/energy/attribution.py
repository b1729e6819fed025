"""Who reserves which share of a card, and whose processes run on it: the account's and the exporter's inputs. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agent.cards.reader import CardReading, Missing, ProcessUse, Reading
from agent.energy.books import Holder, Use
from agent.pods.cgroup import Owner
from agent.pods.index import NodePod, PodIndex, PodKey, is_finished, key_of
from headroom.domain.assignment import Assignment, readable_assignment_of
from headroom.domain.device_plugin import share_mib
from headroom.domain.model import Card
from headroom.domain.request import RequestError, request_of


@dataclass(frozen=True, slots=True)
class PodMemory:
    """Memory that the processes of one container hold on one card (or MIG instance)."""

    card: str
    pod: PodKey
    container: str
    used_bytes: int


@dataclass(frozen=True, slots=True)
class Usage:
    """Whose processes are on the cards."""

    uses: Mapping[str, Sequence[Use] | Missing]
    """By physical card; Missing where the driver does not tell."""
    memory: tuple[PodMemory, ...]
    outside_bytes: Mapping[str, int]
    """Memory of processes outside any pod, by card."""
    told: frozenset[str] = frozenset()
    """Cards on which it is known of every process whose it is and what it holds."""

    @property
    def by_pod(self) -> dict[tuple[PodKey, str], int]:
        """Memory of each pod's processes, by pod and card."""
        found: dict[tuple[PodKey, str], int] = {}
        for entry in self.memory:
            found[entry.pod, entry.card] = found.get((entry.pod, entry.card), 0) + entry.used_bytes
        return found

    @property
    def unattributed_bytes(self) -> dict[str, int]:
        """Memory of processes outside any pod, for the cards where that is all of it."""
        return {card: self.outside_bytes.get(card, 0) for card in self.told}


def pids_of(reading: Reading) -> list[int]:
    """Processes whose pod has to be looked up."""
    return [process.pid for card in reading.cards for process in _processes(card) if not process.pod_uid]


def usage_of(reading: Reading, owners: Mapping[int, Owner | None], pods: PodIndex) -> Usage:
    """Sort the processes of a reading by pod. Processes that vanished meanwhile are in no pod's and no one's account."""
    uses: dict[str, list[Use] | Missing] = {}
    memory: dict[tuple[str, PodKey, str], int] = {}
    outside: dict[str, int] = {}
    for card in reading.cards:
        physical = card.parent or card.id
        if isinstance(card.processes, Missing) and not card.parent:
            uses.setdefault(physical, card.processes)
        for process in _processes(card):
            if not process.pod_uid and process.pid not in owners:
                continue
            pod, container = _whose(process, owners, pods)
            used = process.memory_used_bytes if isinstance(process.memory_used_bytes, int) else 0
            if pod is None:
                outside[card.id] = outside.get(card.id, 0) + used
            else:
                place = (card.id, pod, container)
                memory[place] = memory.get(place, 0) + used
            _append(uses, physical, Use(pod, process.sm_ratio))
        if not card.parent and not isinstance(card.processes, Missing):
            uses.setdefault(physical, [])
    told = frozenset(card.id for card in reading.cards if _tells_all(card, owners))
    return Usage(uses, tuple(PodMemory(*place, used) for place, used in sorted(memory.items())), outside, told)


def _append(uses: dict[str, list[Use] | Missing], card: str, use: Use) -> None:
    known = uses.get(card)
    if known is None or isinstance(known, Missing):
        uses[card] = [use]
    else:
        known.append(use)


def _processes(card: CardReading) -> tuple[ProcessUse, ...]:
    return () if isinstance(card.processes, Missing) else card.processes


def _tells_all(card: CardReading, owners: Mapping[int, Owner | None]) -> bool:
    """Whether each process on the card could be looked up, with its memory; a partitioned card's processes are its instances'."""
    if not card.allocatable or isinstance(card.processes, Missing):
        return False
    return all(
        (process.pod_uid or process.pid in owners) and not isinstance(process.memory_used_bytes, Missing)
        for process in card.processes
    )


def _whose(process: ProcessUse, owners: Mapping[int, Owner | None], pods: PodIndex) -> tuple[PodKey | None, str]:
    owner = Owner(process.pod_uid, process.container_id) if process.pod_uid else owners.get(process.pid)
    pod = pods.pod(owner.pod_uid) if owner is not None else None
    if owner is None or pod is None:
        return None, ""
    return key_of(pod), pods.container(owner.container_id)


def holders_of(
    pods: PodIndex,
    held: Mapping[tuple[str, str], Sequence[tuple[str, str]]],
    cards: Sequence[Card],
    reading: Reading,
) -> dict[str, list[Holder]]:
    """Reserved shares by physical card, from kubelet's list (`held`, see `Truth.holders`) or else from the pods' annotations."""
    by_id = {card.id: card for card in cards}
    parts = _instance_parts(reading)
    holders: dict[str, list[Holder]] = {}
    for pod in pods:
        if is_finished(pod):
            continue
        assignment = readable_assignment_of(pod.metadata.annotations)
        devices = held.get((pod.metadata.namespace or "default", pod.metadata.name), ())
        ids = [card_id for card_id, _ in devices] or (assignment.cards if assignment is not None else ())
        for at, card_id in enumerate(ids):
            card = by_id.get(card_id)
            share = _share_of(pod, assignment, at, card) if card is not None else 0.0
            if share > 0:
                physical, part = parts.get(card_id, (card_id, 1.0))
                holders.setdefault(physical, []).append(Holder(key_of(pod), share * part))
    return holders


def _instance_parts(reading: Reading) -> dict[str, tuple[str, float]]:
    """MIG instance -> (physical card, its part of that card's memory)."""
    totals = {card.id: card.memory_total_bytes for card in reading.cards}
    parts: dict[str, tuple[str, float]] = {}
    for card in reading.cards:
        whole = totals.get(card.parent)
        if isinstance(whole, int) and whole > 0 and isinstance(card.memory_total_bytes, int):
            parts[card.id] = (card.parent, card.memory_total_bytes / whole)
    return parts


def _share_of(pod: NodePod, assignment: Assignment | None, at: int, card: Card) -> float:
    """The part of a card that one share of the pod reserves; 0 when it cannot be told."""
    usable = card.vram_mib - card.reserve_mib
    if usable <= 0:
        return 0.0
    if assignment is not None and at < len(assignment.share_mib):
        return min(assignment.share_mib[at] / usable, 1.0)
    try:
        request = request_of(pod)
    except RequestError:
        return 0.0
    if request is None:
        return 1.0 / max(card.slices, 1)
    return min(share_mib(request, usable, card.slices) / usable, 1.0)
