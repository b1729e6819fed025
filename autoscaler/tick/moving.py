"""A decision becomes replicas: who loses its pod is chosen, the scale is written, and what happened is noted."""

from collections.abc import Callable

from autoscaler.adapters.actuator import Actuator, ChangedError, NotLeaderError, is_ours
from autoscaler.metrics import AutoscalerMetrics
from autoscaler.observation.cluster import pods
from autoscaler.observation.cluster.objects import PodView, stamp
from autoscaler.observation.cluster.world import World
from autoscaler.tick import status
from autoscaler.tick.outcome import Outcome
from headroom.daemon.logs import get_logger
from headroom.kube.client import KubeError

log = get_logger(__name__)


def not_moved(outcome: Outcome) -> None:
    """Nothing was written: the rates must not count a move."""
    outcome.memory.state = outcome.memory.state.not_moved(outcome.before)


class Mover:
    """Writes what was decided."""

    def __init__(
        self, world: World, actuator: Actuator, metrics: AutoscalerMetrics, wall_clock: Callable[[], float]
    ) -> None:
        self._world, self._actuator, self._metrics, self._wall_clock = world, actuator, metrics, wall_clock

    async def move(self, outcome: Outcome, now: float) -> None:
        """Write the replicas of one object, where they change and may be changed."""
        memory = outcome.memory
        if outcome.decision.replicas == outcome.observation.replicas:
            memory.failure = ""
        elif not outcome.acts or now < memory.wait_until:
            not_moved(outcome)
        else:
            await self._write_scale(outcome, now)

    async def _write_scale(self, outcome: Outcome, now: float) -> None:
        memory, target, decision = outcome.memory, outcome.target, outcome.decision
        current = outcome.observation.replicas
        latest, read = self._world.resources.get(target.key), outcome.resource.metadata
        same = latest is not None and (latest.metadata.uid, latest.metadata.generation) == (read.uid, read.generation)
        if not same or self._world.conflict(target):
            # Edited, deleted or disputed since it was read: the next tick decides on what is then.
            not_moved(outcome)
            return
        victims: list[PodView] = []
        spared: list[PodView] = []
        if decision.replicas < current:
            useful = pods.free_share_after(outcome.pods, self._world.all_pods())
            victims = pods.cheapest_to_lose(outcome.pods, current - decision.replicas, outcome.in_flight, useful)
            chosen = {pod.name for pod in victims}
            spared = [p for p in outcome.pods if is_ours(p.deletion_cost) and p.name not in chosen and not p.deleted_at]
        try:
            path = self._world.served[outcome.workload.kind].path(outcome.workload)
            version = await self._actuator.scale(path, current, decision.replicas, victims, spared)
        except (KubeError, ChangedError, NotLeaderError) as error:
            not_moved(outcome)
            if isinstance(error, KubeError):
                memory.failure = str(error)
                memory.wait_until = now + (error.retry_after_seconds or 0.0)
            log.warning("scale_not_written", key=target.key, error=str(error))
            return
        memory.failure = ""
        memory.others.wrote(decision.replicas, version, now)
        wall = self._wall_clock()
        memory.last_scale = stamp(wall)
        memory.history = [status.history_entry(current, decision.replicas, decision.reasons, wall), *memory.history]
        del memory.history[status.HISTORY :]
        direction = "up" if decision.replicas > current else "down"
        self._metrics.moves.labels(target.namespace, outcome.resource.metadata.name, direction).inc()
        text = "; ".join(reason.text for reason in decision.reasons)
        log.info("scaled", key=target.key, target=target.scaled, before=current, after=decision.replicas, why=text)
        await self._actuator.event(outcome.resource, "SuccessfulRescale", text)
