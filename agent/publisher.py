"""The agent's writes to the API server: the Node's cards, corrections on pods, and the Events that tell of them.

Nothing is written that is there already. A write that fails is tried again with back-off, each object by itself.
"""

import datetime
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from agent.pods.reconcile import Correction, Finding
from headroom import wire
from headroom.daemon.logs import get_logger
from headroom.daemon.tasks import Backoff
from headroom.domain.model import Card
from headroom.domain.node_cards import encode_cards
from headroom.kube.calls import NODES, annotate, merge_patch, pod_path, record_event
from headroom.kube.client import Conflict, KubeClient, KubeError, NotFound, Unprocessable
from headroom.names import ANNOTATION_NODE_CARDS, RESOURCE_VRAM
from headroom.units import MIB, UnitError, parse_quantity

CONTROLLER: Final = "headroom.dev/agent"
_REASONS: Final = {Finding.CORRECTED: "CardMispredicted", Finding.REPORTED: "CardsReported"}


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
        publish_capacity: bool = False,
    ) -> None:
        self._kube, self._node, self._counted, self._now = kube, node, counted, now
        self._publish_capacity = publish_capacity
        self._cards = _Target()
        self._capacity = _Target()
        self._pods: dict[str, _Target] = {}
        self._log = get_logger(__name__).bind(node=node)

    async def publish_cards(self, node: wire.Node, cards: tuple[Card, ...], at: float) -> None:
        """Write the Node annotation, and the capacity where wanted, unless they say the same already. `at` is monotonic seconds."""
        text = encode_cards(cards)
        shown = node.metadata.annotations.get(ANNOTATION_NODE_CARDS)
        if self._due(self._cards, text, shown, at):
            path = f"{NODES}/{self._node}"
            if await self._write(self._cards, "node", at, annotate(self._kube, path, {ANNOTATION_NODE_CARDS: text})):
                self._cards.written = text
                self._log.info("cards_published", cards=len(cards), healthy=sum(card.healthy for card in cards))
        if self._publish_capacity:
            await self._publish_vram(node, cards, at)

    async def _publish_vram(self, node: wire.Node, cards: tuple[Card, ...], at: float) -> None:
        wanted = sum(card.usable_mib for card in cards if card.sized) * MIB
        shown = [_bytes(amounts.get(RESOURCE_VRAM)) for amounts in (node.status.capacity, node.status.allocatable)]
        if shown == [wanted, wanted] or not self._due(self._capacity, str(wanted), None, at):
            return
        amount = {RESOURCE_VRAM: str(wanted)}
        body = {"status": {"capacity": amount, "allocatable": amount}}
        call = merge_patch(self._kube, f"{NODES}/{self._node}/status", body)
        if await self._write(self._capacity, "node_status", at, call):
            self._capacity.written = str(wanted)

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
        """Write a correction on its pod, then tell of it. Returns whether it was written now."""
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
        actual = ", ".join(correction.actual)
        note = (
            f"kubelet gave this pod {actual}, predicted was {', '.join(correction.predicted)}; the assignment was corrected"
            if correction.finding is Finding.CORRECTED
            else f"kubelet gave this pod {actual}; it was not placed by Headroom and is now accounted for"
        )
        await record_event(
            self._kube,
            regarding={
                "apiVersion": "v1",
                "kind": "Pod",
                "namespace": correction.namespace,
                "name": correction.name,
                "uid": correction.uid,
            },
            reason=_REASONS[correction.finding],
            note=note,
            action="Correct",
            controller=CONTROLLER,
            instance=self._node,
            now=self._now(),
            warning=correction.finding is Finding.CORRECTED,
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


def _bytes(quantity: wire.Quantity | None) -> int | None:
    try:
        return None if quantity is None else int(parse_quantity(str(quantity)))
    except UnitError:
        return None
