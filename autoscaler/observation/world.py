"""What the watches have shown: objects, workloads, pods by owner, other scalers. Synchronous handlers, no I/O."""

from collections.abc import Mapping

from autoscaler.api.resource import InferenceAutoscaler, Names, SpecError, Target, read
from autoscaler.observation.objects import OtherScaler, PodView, Workload
from headroom.wire import DELETED


class World:
    """The cluster as far as the autoscaler looks at it."""

    def __init__(self, names: Names = ()) -> None:
        """`names`: under which names this installation exports engines' metrics."""
        self._names = names
        self.resources: dict[str, InferenceAutoscaler] = {}
        self.targets: dict[str, Target] = {}
        self.invalid: dict[str, str] = {}
        """Objects that cannot be read, and why."""
        self.workloads: dict[str, Workload] = {}
        """By `Kind/namespace/name`."""
        self._pods: dict[str, dict[str, PodView]] = {}
        self._owner_of: dict[str, str] = {}
        self._others: dict[str, dict[str, str]] = {}
        """Kind of scaler -> its key -> what it scales."""
        self._other_of: dict[str, str] = {}
        self._by_scaled: dict[str, list[str]] = {}

    def on_resource(self, kind: str, key: str, resource: InferenceAutoscaler) -> None:
        """An InferenceAutoscaler event."""
        if kind == DELETED:
            for known in (self.resources, self.targets, self.invalid):
                known.pop(key, None)
            return
        # A Raw is a view of the whole answer that it came in, a page of 2,000 objects: keep the part alone.
        resource.status = resource.status.copy()
        self.resources[key] = resource
        try:
            self.targets[key] = read(resource, self._names)
            self.invalid.pop(key, None)
        except SpecError as error:
            self.targets.pop(key, None)
            self.invalid[key] = str(error)

    def on_broken_resource(self, key: str, error: Exception) -> None:
        """An object that is not even JSON of the right shape: nothing is done with it until it is."""
        self.targets.pop(key, None)
        self.invalid[key] = str(error)

    def on_workload(self, workload_kind: str, kind: str, key: str, workload: Workload) -> None:
        """A Deployment, StatefulSet or LeaderWorkerSet event."""
        if kind == DELETED:
            self.workloads.pop(f"{workload_kind}/{key}", None)
        else:
            workload.spec.keep_template()
            self.workloads[f"{workload_kind}/{key}"] = workload

    def on_pod(self, kind: str, key: str, pod: PodView) -> None:
        """A pod event."""
        before = self._owner_of.get(key)
        if before is not None and (kind == DELETED or before != pod.owner):
            self._pods[before].pop(key, None)
            if not self._pods[before]:
                del self._pods[before]
            del self._owner_of[key]
        if kind != DELETED and pod.owner:
            self._owner_of[key] = pod.owner
            self._pods.setdefault(pod.owner, {})[key] = pod

    def on_other_scaler(self, kind: str, key: str, scaler: OtherScaler) -> None:
        """A HorizontalPodAutoscaler event."""
        known = self._others.setdefault("HorizontalPodAutoscaler", {})
        if kind == DELETED:
            known.pop(key, None)
        else:
            known[key] = scaler.scaled
        self._index_others()

    def set_scaled_objects(self, scaled: Mapping[str, str]) -> None:
        """KEDA's ScaledObjects, as listed last: key -> what it scales."""
        self._others["ScaledObject"] = dict(scaled)
        self._index_others()

    def _index_others(self) -> None:
        self._other_of = {
            scaled: f"{kind} {key}" for kind, known in sorted(self._others.items()) for key, scaled in known.items()
        }

    def pods_of(self, scaled: str) -> list[PodView]:
        """The workload's own pods, of a group its leader."""
        return [pod for pod in self._pods.get(scaled, {}).values() if not pod.is_worker]

    def workers_of(self, scaled: str) -> list[PodView]:
        """The other pods of a workload's groups."""
        return [pod for pod in self._pods.get(scaled, {}).values() if pod.is_worker]

    def all_pods(self) -> list[PodView]:
        """Every pod of every workload."""
        return [pod for pods in self._pods.values() for pod in pods.values()]

    def conflict(self, target: Target) -> str:
        """Who else scales the same object; empty when nobody does. Of two InferenceAutoscalers the older one acts."""
        if other := self._other_of.get(target.scaled):
            return other
        mine = self._age(target.key)
        for rival in self._rivals(target.scaled):
            if self._age(rival) < mine:
                return f"InferenceAutoscaler {rival}"
        return ""

    def index_rivals(self) -> None:
        """Prepare `conflict` for this tick."""
        self._by_scaled = {}
        for key, target in self.targets.items():
            self._by_scaled.setdefault(target.scaled, []).append(key)

    def _rivals(self, scaled: str) -> list[str]:
        return self._by_scaled.get(scaled, [])

    def _age(self, key: str) -> tuple[str, str]:
        resource = self.resources.get(key)
        return ((resource.metadata.creation_timestamp or "") if resource else "", key)
