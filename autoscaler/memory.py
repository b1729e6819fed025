"""What the loop keeps of one object between ticks, and what of it outlives a leader."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from autoscaler.objects import PodView, Workload
from autoscaler.observe import Lessons
from autoscaler.outcome import TargetState
from autoscaler.resource import InferenceAutoscaler, Target
from autoscaler.spec import Learned
from headroom import wire
from headroom.logs import get_logger
from headroom.request import RequestError, request_of

log = get_logger(__name__)


class _Keepsake(msgspec.Struct):
    """What a new leader needs to go on; kept in the status."""

    learned: Learned
    lessons: Lessons


_KEEPSAKE: Final = msgspec.json.Decoder(_Keepsake)


@dataclass(slots=True)
class Memory:
    """What the loop keeps of one object between ticks."""

    state: TargetState = field(default_factory=TargetState)
    lessons: Lessons = field(default_factory=Lessons)
    ready: dict[str, float] = field(default_factory=dict)
    history: list[Mapping[str, Any]] = field(default_factory=list)
    last_scale: str = ""
    written: Mapping[str, Any] = field(default_factory=dict)
    written_at: float = float("-inf")
    wait_until: float = float("-inf")
    """No writes before; the API server asked for patience."""
    failure: str = ""
    gpus: tuple[bytes, float] = (b"", 1.0)


def recall(resource: InferenceAutoscaler) -> Memory:
    """Take over what an earlier leader left in the status; what cannot be read is learned again."""
    memory = Memory()
    memory.history = list(resource.status.get("history") or ())
    memory.last_scale = resource.status.get("lastScaleTime") or ""
    kept = (resource.status.get("learned") or {}).get("memory")
    if kept:
        try:
            keepsake = _KEEPSAKE.decode(kept)
        except (msgspec.MsgspecError, TypeError) as error:
            log.info("keepsake_not_understood", key=resource.key, error=str(error))
        else:
            memory.state = TargetState(learned=keepsake.learned)
            memory.lessons = keepsake.lessons
    return memory


def keepsake(learned: Learned, lessons: Lessons) -> str:
    """The text that `recall` reads."""
    return msgspec.json.encode(_Keepsake(learned, lessons)).decode()


def gpus_of(target: Target, memory: Memory, workload: Workload, own: list[PodView]) -> float:
    """GPUs that one replica holds: what its pods were given, else what the template asks for."""
    placed = [pod.share * len(pod.cards) for pod in own if pod.share and pod.cards]
    if placed:
        return max(placed)
    template = bytes(workload.spec.template)
    if memory.gpus[0] != template:
        memory.gpus = (template, _asked(target.scaled, template))
    return memory.gpus[1]


def _asked(scaled: str, template: bytes) -> float:
    """GPUs that a pod of this template asks for; a share given in MiB counts as a card until a pod shows its part."""
    try:
        pod = wire.POD.decode(template)
        request = request_of(pod)
    except (wire.WireError, RequestError) as error:
        log.info("template_not_understood", target=scaled, error=str(error))
        return 1.0
    if request is None:
        return 1.0
    return request.count * (request.milli / 1000 if 0 < request.milli < 1000 else 1.0)
