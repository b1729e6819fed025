"""The agent's writes to the API server: the Node's cards, corrections on pods, and Events.

Nothing is written that is there already. A write that fails is tried again with back-off, each object by itself.
"""

import datetime
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from agent.pods import trespass
from agent.pods.reconcile import Correction, Finding
from headroom import wire
from headroom.daemon.logs import get_logger
from headroom.daemon.tasks import Backoff
from headroom.domain.links import Links, encode_links
from headroom.domain.model import Card
from headroom.domain.node_cards import encode_cards
from headroom.kube.calls import NODES, Event, annotate, merge_patch, pod_path, record_event
from headroom.kube.client import Conflict, KubeClient, KubeError, NotFound, Unprocessable
from headroom.names import ANNOTATION_AGENT_TELLS, ANNOTATION_NODE_CARDS, ANNOTATION_NODE_LINKS, RESOURCE_VRAM
from headroom.units import MIB, format_mib

CONTROLLER: Final = "headroom.dev/agent"
_REASONS: Final = {
    Finding.TIE: "CardsSettled",
    Finding.CORRECTED: "CardMispredicted",
    Finding.REPORTED: "CardsReported",
}
_TRESPASS_REASONS: Final = {
    trespass.Trespass.OVER_SHARE: "MemoryBeyondShare",
    trespass.Trespass.FOREIGN_CARD: "CardNotItsOwn",
}


@dataclass(slots=True)
class _Target:
    """The state of writing one thing."""

    written: str | None = None
    """What was written last, by an accepted call; the watch may not show it yet."""
    not_before: float = float("-inf")
    backoff: Backoff = field(default_factory=lambda: Backoff(initial_seconds=1.0, maximum_seconds=60.0))


class Publisher:
    """Writes for one node. `counted(object, result)` is told of every call; `now` is UTC wall time for Events."""

    def __init__(
        self,
        kube: KubeClient,
        node: str,
        *,
        counted: Callable[[str, str], None],
        now: Callable[[], datetime.datetime],
        tells_cards: bool = False,
    ) -> None:
        """`tells_cards` says on the node that kubelet's word will be written on its pods."""
        self._kube, self._node, self._counted, self._now = kube, node, counted, now
        self._promise = {ANNOTATION_AGENT_TELLS: "kubelet-cards" if tells_cards else None}
        self._cards = _Target()
        self._capacity = _Target()
        self._links = _Target()
        self._links_problem = ""
        self._pods: dict[str, _Target] = {}
        self._told: dict[tuple[str, str, trespass.Trespass], _Target] = {}
        self._log = get_logger(__name__).bind(node=node)

    async def publish_cards(self, node: wire.Node, cards: tuple[Card, ...], at: float) -> None:
        """Write the Node annotation unless it says the same already. `at` is monotonic seconds."""
        text = encode_cards(cards)
        annotations = node.metadata.annotations
        promised = all(annotations.get(name) == value for name, value in self._promise.items())
        if self._due(self._cards, text, annotations.get(ANNOTATION_NODE_CARDS) if promised else None, at):
            call = annotate(self._kube, f"{NODES}/{self._node}", {ANNOTATION_NODE_CARDS: text, **self._promise})
            if await self._write(self._cards, "node", at, call):
                self._cards.written = text
                self._log.info("cards_published", cards=len(cards), healthy=sum(card.healthy for card in cards))
        await self._take_capacity_away(node, at)

    async def publish_links(self, node: wire.Node, links: Links | None, problem: str, at: float) -> None:
        """Write how the cards are linked, or take away what is written where it is not known. `at` is monotonic seconds.

        `problem` is why it is not known, or what was corrected; it is logged when it changes.
        """
        if problem != self._links_problem:
            self._links_problem = problem
            if problem:
                self._log.warning("links_not_as_they_should_be", told=links is not None, reason=problem)
        text = encode_links(links) if links is not None else ""
        if not self._due(self._links, text, node.metadata.annotations.get(ANNOTATION_NODE_LINKS, ""), at):
            return
        call = annotate(self._kube, f"{NODES}/{self._node}", {ANNOTATION_NODE_LINKS: text or None})
        if await self._write(self._links, "node", at, call):
            self._links.written = text
            self._log.info("links_published", cards=len(links.cards) if links is not None else 0)

    async def _take_capacity_away(self, node: wire.Node, at: float) -> None:
        """Earlier versions could publish the cards' memory as a capacity of the node.

        kubelet counts its pods against such a figure: after a lost card or a wrong word it refused pods for which there was room, and
        it keeps a figure that nobody renews. Without one it admits what the scheduler binds.
        """
        shown = [amounts.get(RESOURCE_VRAM) for amounts in (node.status.capacity, node.status.allocatable)]
        if shown == [None, None] or not self._due(self._capacity, "", None, at):
            return
        body = {"status": {"capacity": {RESOURCE_VRAM: None}, "allocatable": {RESOURCE_VRAM: None}}}
        call = merge_patch(self._kube, f"{NODES}/{self._node}/status", body)
        if await self._write(self._capacity, "node_status", at, call):
            self._capacity.written = ""
            self._log.warning("capacity_taken_away", resource=RESOURCE_VRAM, was=str(shown[0] or shown[1]))

    def _due(self, target: _Target, text: str, shown: str | None, at: float) -> bool:
        if shown == text:
            target.written = None
            target.backoff.reset()
            return False
        if at < target.not_before:
            return False
        if target.written == text:
            # Accepted, yet something else is there: the watch lags, or somebody overwrites it. Either way, not in a tight loop.
            target.written = None
            target.not_before = at + target.backoff.next_seconds()
            return False
        return True

    async def correct(self, correction: Correction, at: float) -> bool:
        """Write kubelet's word on a pod; tell of it where it is not what was foretold. Returns whether it was written now."""
        target = self._pods.setdefault(correction.uid, _Target())
        text = ";".join(f"{key}={value}" for key, value in sorted(correction.annotations.items()))
        if not self._due(target, text, None, at):
            return False
        path = pod_path(correction.namespace, correction.name)
        # The UID makes the API server refuse the write on a successor of the same name.
        body = {"metadata": {"uid": correction.uid, "annotations": dict(correction.annotations)}}
        if not await self._write(target, "pod", at, merge_patch(self._kube, path, body)):
            return False
        target.written = text
        if correction.finding is Finding.RIGHT:
            return True
        self._log.warning(
            "assignment_corrected",
            pod=f"{correction.namespace}/{correction.name}",
            finding=correction.finding.value,
            predicted=",".join(correction.predicted),
            actual=",".join(correction.actual),
        )
        await self._write(_Target(), "event", at, self._tell(correction))
        return True

    async def _tell(self, correction: Correction) -> None:
        actual, predicted = ", ".join(correction.actual), ", ".join(correction.predicted)
        notes = {
            Finding.TIE: f"kubelet gave this pod {actual}, foretold was {predicted}; the device plugin was free to pick either",
            Finding.CORRECTED: f"kubelet gave this pod {actual}, predicted was {predicted}; the assignment was corrected",
            Finding.REPORTED: f"kubelet gave this pod {actual}; it was not placed by Headroom and is now accounted for",
        }
        await self._record(
            _pod(correction.namespace, correction.name, correction.uid),
            _REASONS[correction.finding],
            notes[correction.finding],
            action="Correct",
            warning=correction.finding is Finding.CORRECTED,
        )

    async def tell_trespasses(self, findings: Iterable[trespass.Finding], at: float) -> None:
        """Tell of each pod that uses what it was not given, in one Event for as long as it does. `at` is monotonic seconds."""
        current = {(one.uid, one.card, one.kind): one for one in findings}
        self._told = {key: target for key, target in self._told.items() if key in current}
        for key, one in current.items():
            target = self._told.setdefault(key, _Target())
            if target.written is not None or at < target.not_before:
                continue
            if await self._write(target, "event", at, self._tell_trespass(one)):
                target.written = one.kind.value

    async def _tell_trespass(self, found: trespass.Finding) -> None:
        used = format_mib(found.used_bytes // MIB)
        note = (
            f"this pod uses {used} of card {found.card}, of which it was given {format_mib(found.share_bytes // MIB)}"
            if found.kind is trespass.Trespass.OVER_SHARE
            else f"this pod uses {used} of card {found.card}, which was not given to it"
        )
        pod = _pod(found.pod.namespace, found.pod.name, found.uid)
        await self._record(pod, _TRESPASS_REASONS[found.kind], note, action="Watch", warning=True)

    async def _record(self, pod: Mapping[str, str], reason: str, note: str, *, action: str, warning: bool) -> None:
        await record_event(
            self._kube,
            Event(
                regarding=pod,
                reason=reason,
                note=note,
                action=action,
                controller=CONTROLLER,
                instance=self._node,
                now=self._now(),
                warning=warning,
            ),
        )

    def forget_pod(self, uid: str) -> None:
        """Drop what is remembered of a pod that is gone."""
        self._pods.pop(uid, None)

    async def _write(self, target: _Target, what: str, at: float, call: Awaitable[object]) -> bool:
        try:
            await call
        except (NotFound, Conflict, Unprocessable) as error:
            # The object went or changed under us; the next reading sees what is there then.
            result = type(error).__name__
        except KubeError as error:
            result = type(error).__name__
            self._log.warning("write_failed", object=what, error=str(error))
        else:
            self._counted(what, "ok")
            return True
        self._counted(what, result)
        target.not_before = at + target.backoff.next_seconds()
        return False


def _pod(namespace: str, name: str, uid: str) -> dict[str, str]:
    """What an Event regards."""
    return {"apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": name, "uid": uid}
