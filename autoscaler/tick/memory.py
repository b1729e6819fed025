"""What the loop keeps of one object between ticks, and what of it outlives a leader."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import msgspec

from autoscaler.api.resource import InferenceAutoscaler, Target
from autoscaler.law.decision import TargetState
from autoscaler.law.memory.learned import Learned
from autoscaler.observation.cluster.objects import PodView
from autoscaler.observation.cluster.workloads import Workload
from autoscaler.observation.lessons import Lessons
from autoscaler.observation.stillness import Still
from autoscaler.tick.other_writers import OtherWriters
from autoscaler.tick.status import CHANGED_BY_ANOTHER
from headroom import wire
from headroom.daemon.logs import get_logger
from headroom.domain.request import RequestError, request_of

log = get_logger(__name__)


_DIGITS: Final = 6
"""Of what is kept in the status: sums of hundreds of samples are not known better."""
_NO_STATUS: Final = b"{}"


class _Samples(msgspec.Struct):
    """What a new leader needs to go on; kept in the status as `learned.samples`."""

    learned: Learned
    lessons: Lessons


@dataclass(slots=True)
class Memory:
    """What the loop keeps of one object between ticks."""

    uid: str = ""
    """Of the object: another one of the same name is remembered anew."""
    state: TargetState = field(default_factory=TargetState)
    lessons: Lessons = field(default_factory=Lessons)
    started: Mapping[str, float] | None = None
    """Pods that have been ready, and when they were created; None before the first look."""
    still: Mapping[str, Still] = field(default_factory=dict)
    """Pods whose counters stand still with requests inside."""
    short_since: float | None = None
    """Since when there have been fewer pods than replicas with none on the way."""
    others: OtherWriters = field(default_factory=OtherWriters)
    history: list[Mapping[str, Any]] = field(default_factory=list)
    last_scale: str = ""
    written: bytes = b""
    """The status that this process wrote last (JSON), while it is the one that writes: the watch may not show it yet."""
    written_at: float = float("-inf")
    wait_until: float = float("-inf")
    """No writes before; the API server asked for patience."""
    failure: str = ""
    gpus: tuple[bytes, float] = (b"", 1.0)

    def status(self, resource: InferenceAutoscaler) -> dict[str, Any]:
        """The object's status as far as it is known here."""
        found = msgspec.json.decode(self.written or resource.status or _NO_STATUS)
        return found if isinstance(found, dict) else {}

    def follow(self, resource: InferenceAutoscaler) -> None:
        """Take over what another one writes to the status while this process does not act."""
        self.written = b""
        status = self.status(resource)
        self.history = list(status.get("history") or ())
        self.last_scale = status.get("lastScaleTime") or ""
        last = self.history[0] if self.history else {}
        self.state = self.state.at_zero(by_law=last.get("to") == 0 and last.get("reason") != CHANGED_BY_ANOTHER)


def recall(resource: InferenceAutoscaler) -> Memory:
    """Take over what an earlier leader left in the status; what cannot be read is learned again."""
    memory = Memory(resource.metadata.uid)
    memory.follow(resource)
    samples = (memory.status(resource).get("learned") or {}).get("samples")
    if samples is not None:
        try:
            known = msgspec.convert(samples, _Samples)
        except msgspec.MsgspecError as error:
            log.info("samples_not_understood", key=resource.key, error=str(error))
        else:
            memory.state, memory.lessons = replace(memory.state, learned=known.learned), known.lessons
    return memory


def samples_of(learned: Learned, lessons: Lessons) -> Any:
    """What `recall` reads, as plain values."""
    return _shortened(msgspec.to_builtins(_Samples(learned, lessons)))


def _shortened(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _shortened(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_shortened(entry) for entry in value]
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value


def gpus_of(target: Target, memory: Memory, workload: Workload, own: list[PodView]) -> float:
    """GPUs that one replica holds: what its pods were given, else what the template asks for.

    The pods of a group count as its leader, the only one in `own`.
    """
    placed = [pod.share * len(pod.cards) for pod in own if pod.share and pod.cards]
    if placed:
        return max(placed) * workload.pods_per_replica
    template = workload.template
    if memory.gpus[0] != template:
        memory.gpus = (template, _asked(target.scaled, template))
    return memory.gpus[1] * workload.pods_per_replica


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
