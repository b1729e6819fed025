"""Writes to the API server: scale, pod deletion cost, status, events. One writer, and only while it holds the lease."""

import asyncio
import datetime
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final

import msgspec

from autoscaler.adapters.scales import SCALE, Scale
from autoscaler.api.resource import InferenceAutoscaler
from autoscaler.metrics import AutoscalerMetrics
from autoscaler.observation.cluster.objects import PodView
from autoscaler.observation.cluster.workloads import FIELD_MANAGER
from headroom.daemon.logs import get_logger
from headroom.errors import HeadroomError
from headroom.kube import calls
from headroom.kube.client import Conflict, KubeClient, KubeError, NotFound
from headroom.names import ANNOTATION_DELETION_COST, API_VERSION, KIND_AUTOSCALER, PLURAL_AUTOSCALER

CHEAPEST: Final = -1000
"""Deletion cost of the pod to go first; the others of the same step follow at one more each. Unset counts as 0."""

_MOST_AT_ONCE: Final = 500

log = get_logger(__name__)


def is_ours(cost: str) -> bool:
    """Whether a pod's deletion cost was set here, and not by somebody who wants the pod kept or gone."""
    try:
        return CHEAPEST <= int(cost) < CHEAPEST + _MOST_AT_ONCE
    except ValueError:
        return False


class NotLeaderError(HeadroomError):
    """The lease was lost between decision and write."""


class ChangedError(HeadroomError):
    """The object is not what the decision was made on; the next tick decides anew."""


class Actuator:
    """Every write of the autoscaler. Raises KubeError, NotLeaderError or ChangedError; a write that failed changed nothing."""

    def __init__(
        self,
        kube: KubeClient,
        metrics: AutoscalerMetrics,
        *,
        may_write: Callable[[], bool],
        writers: int,
        instance: str,
        clock: Callable[[], datetime.datetime],
    ) -> None:
        self._kube, self._metrics, self._may_write, self._instance, self._clock = (
            kube,
            metrics,
            may_write,
            instance,
            clock,
        )
        self._slots = asyncio.Semaphore(writers)

    async def scale(
        self, path: str, expected: int, replicas: int, victims: Sequence[PodView], spared: Sequence[PodView]
    ) -> str:
        """Change `spec.replicas` of the object at `path` from `expected` to `replicas`; returns its version after that.

        `victims` are the pods to lose, cheapest first; `spared` those that keep a cost from an earlier step that did not
        take them.
        """
        path = f"{path}/scale"
        scale = await self._scale_of(path)
        if scale.spec.replicas != expected:
            raise ChangedError(f"{path} asks for {scale.spec.replicas} replicas, not {expected} as decided on")
        if replicas < expected:
            costs: list[tuple[PodView, str | None]] = [
                (pod, str(CHEAPEST + min(rank, _MOST_AT_ONCE - 1))) for rank, pod in enumerate(victims)
            ]
            costs += [(pod, None) for pod in spared]
            chosen = [(pod, cost) for pod, cost in costs if cost != (pod.deletion_cost or None)]
            # Only the controller of ReplicaSets looks at it.
            await asyncio.gather(*(self._cost(pod, cost) for pod, cost in chosen if pod.controller == "ReplicaSet"))
        try:
            return await self._write_scale(path, scale.metadata.resource_version, replicas)
        except Conflict:
            # The status of the workload moves its version too: look again, and write if the count is still the same.
            scale = await self._scale_of(path)
            if scale.spec.replicas != expected:
                raise ChangedError(f"{path} was changed to {scale.spec.replicas} replicas meanwhile") from None
            return await self._write_scale(path, scale.metadata.resource_version, replicas)

    async def _scale_of(self, path: str) -> Scale:
        try:
            return SCALE.decode(await self._counted("scale", self._kube.request("GET", path)))
        except msgspec.MsgspecError as error:
            raise KubeError(f"GET {path}: broken scale: {error}") from error

    async def _write_scale(self, path: str, version: str, replicas: int) -> str:
        body = {"metadata": {"resourceVersion": version}, "spec": {"replicas": replicas}}
        written = await self._counted("scale", calls.merge_patch(self._kube, path, body, manager=FIELD_MANAGER))
        try:
            return SCALE.decode(written).metadata.resource_version
        except msgspec.MsgspecError:
            return ""

    async def _cost(self, pod: PodView, cost: str | None) -> None:
        try:
            path = calls.pod_path(pod.namespace, pod.name)
            await self._counted("cost", calls.annotate(self._kube, path, {ANNOTATION_DELETION_COST: cost}))
        except NotFound:
            log.info("pod_gone", pod=f"{pod.namespace}/{pod.name}")

    async def status(self, resource: InferenceAutoscaler, status: Mapping[str, Any]) -> None:
        """Merge a status into the object's. Lists are replaced whole; what is not in it stays.

        The UID makes the API server refuse the write on a successor of the same name.
        """
        meta = resource.metadata
        path = f"/apis/{API_VERSION}/namespaces/{meta.namespace}/{PLURAL_AUTOSCALER}/{meta.name}/status"
        try:
            await self._counted(
                "status", calls.merge_patch(self._kube, path, {"metadata": {"uid": meta.uid}, "status": status})
            )
        except NotFound:
            log.info("object_gone", key=resource.key)

    async def event(self, resource: InferenceAutoscaler, reason: str, note: str, *, warning: bool = False) -> None:
        """Record an Event; one that cannot be written is logged and forgotten."""
        regarding = {
            "apiVersion": API_VERSION,
            "kind": KIND_AUTOSCALER,
            "namespace": resource.metadata.namespace,
            "name": resource.metadata.name,
            "uid": resource.metadata.uid,
        }
        try:
            await self._counted(
                "event",
                calls.record_event(
                    self._kube,
                    calls.Event(
                        regarding=regarding,
                        reason=reason,
                        note=note,
                        action="Scale",
                        controller=FIELD_MANAGER,
                        instance=self._instance,
                        now=self._clock(),
                        warning=warning,
                    ),
                ),
            )
        except (KubeError, NotLeaderError) as error:
            log.warning("event_not_written", key=resource.key, error=str(error))

    async def _counted(self, what: str, call: Coroutine[Any, Any, bytes | None]) -> bytes:
        async with self._slots:
            if not self._may_write():
                call.close()
                raise NotLeaderError("the lease was lost before the write")
            try:
                answer = await call
            except Conflict:
                self._metrics.writes.labels(what, "conflict").inc()
                raise
            except KubeError:
                self._metrics.writes.labels(what, "error").inc()
                raise
            self._metrics.writes.labels(what, "ok").inc()
            return answer or b""
