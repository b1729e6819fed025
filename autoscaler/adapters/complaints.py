"""Why a controller could not make pods, in its own words: from the Events that it wrote on the workload."""

from collections.abc import Callable
from typing import Final

import msgspec

from autoscaler.observation.cluster.workloads import DEPLOYMENT, LEADER_WORKER_SET, Workload
from headroom.daemon.logs import get_logger
from headroom.kube.client import KubeClient, KubeError

_ASK_SECONDS: Final = 60.0

log = get_logger(__name__)


class _Event(msgspec.Struct, rename="camel"):
    message: str = ""
    last_timestamp: str | None = None
    event_time: str | None = None


class _Events(msgspec.Struct):
    items: list[_Event] = []


_EVENTS: Final = msgspec.json.Decoder(_Events)


class Complaints:
    """Asks at most once a minute for each workload. A Deployment says it in its status, so it is not asked about."""

    def __init__(self, kube: KubeClient, monotonic: Callable[[], float]) -> None:
        self._kube, self._monotonic = kube, monotonic
        self._known: dict[str, tuple[float, str]] = {}

    async def about(self, workload: Workload) -> str:
        """The newest one; empty where there is none."""
        if workload.kind == DEPLOYMENT:
            return workload.refusal
        now = self._monotonic()
        at, text = self._known.get(workload.uid, (float("-inf"), ""))
        if now - at >= _ASK_SECONDS:
            text = await self._ask(workload)
            self._known = {uid: known for uid, known in self._known.items() if now - known[0] < _ASK_SECONDS}
            self._known[workload.uid] = now, text
        return text

    async def _ask(self, workload: Workload) -> str:
        # A group's leaders are made by a StatefulSet of its name.
        kind = "StatefulSet" if workload.kind == LEADER_WORKER_SET else workload.kind.partition(".")[0]
        chosen = f"reason=FailedCreate,involvedObject.kind={kind},involvedObject.name={workload.name}"
        path = f"/api/v1/namespaces/{workload.namespace}/events"
        try:
            found = _EVENTS.decode(await self._kube.request("GET", path, query=[("fieldSelector", chosen)])).items
        except (KubeError, msgspec.MsgspecError) as error:
            log.info("events_not_read", workload=workload.key, error=str(error))
            return ""
        newest = max(found, key=lambda event: event.last_timestamp or event.event_time or "", default=_Event())
        return newest.message
