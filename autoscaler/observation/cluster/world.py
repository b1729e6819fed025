"""What the watches have shown: objects, workloads, pods by owner, other scalers. Synchronous handlers, no I/O."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec

from autoscaler.api.resource import APPS, GROUPS, InferenceAutoscaler, Names, SpecError, Target, read
from autoscaler.observation.cluster import selectors, workloads
from autoscaler.observation.cluster.objects import OtherScaler, PodView
from autoscaler.observation.cluster.workloads import DEPLOYMENT, LEADER_WORKER_SET, STATEFUL_SET, Workload
from headroom.wire import DELETED


def scoped(api: str, namespace: str, plural: str) -> str:
    """Path of all objects of a namespace, or of the cluster where it is empty."""
    return f"{api}/namespaces/{namespace}/{plural}" if namespace else f"{api}/{plural}"


@dataclass(frozen=True, slots=True)
class Served:
    """A kind that the API server serves with a scale."""

    root: str
    """Group and version as a path: `/apis/apps/v1`."""
    plural: str

    def path(self, workload: "Workload | Target") -> str:
        """Of one object."""
        return f"{self.root}/namespaces/{workload.namespace}/{self.plural}/{workload.name}"

    def listed(self, namespace: str) -> str:
        """Of all of a namespace, or of the cluster where it is empty."""
        return scoped(self.root, namespace, self.plural)


USUAL: Mapping[str, Served] = {
    DEPLOYMENT: Served(f"/apis/{APPS}", "deployments"),
    STATEFUL_SET: Served(f"/apis/{APPS}", "statefulsets"),
    LEADER_WORKER_SET: Served(f"/apis/{GROUPS}", "leaderworkersets"),
}
"""Kinds that need no discovery, by `autoscaler.api.resource.kind_key`."""


class World:
    """The cluster as far as the autoscaler looks at it."""

    def __init__(self, names: Names = (), *, usual_objectives: bool = False) -> None:
        """`names`: under which names this installation exports engines' metrics; see `autoscaler.api.resource.read` for the other."""
        self._names, self._usual_objectives = names, usual_objectives
        self.resources: dict[str, InferenceAutoscaler] = {}
        self.targets: dict[str, Target] = {}
        self.invalid: dict[str, str] = {}
        """Objects that cannot be read, and why."""
        self.workloads: dict[str, Workload] = {}
        """By `Kind/namespace/name`."""
        self.served: dict[str, Served] = dict(USUAL)
        """Kinds that can be scaled, by `kind_key`."""
        self.not_served: dict[str, str] = {}
        """Kinds that cannot, and why."""
        self.unread_scales: set[str] = set()
        """Workloads whose scale has to be read: it says what their own fields do not (`Workload.selector`)."""
        self._all_pods: dict[str, dict[str, PodView]] = {}
        """By namespace, those of nobody as well: a selector may choose any."""
        self._by_label: dict[str, dict[str, dict[str, list[PodView]]]] = {}
        """Namespace -> label -> value -> pods; of labels that selectors ask for, until a pod changes."""
        self._selectors: dict[str, selectors.Selector] = {}
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
            target = read(resource, self._names, usual_objectives=self._usual_objectives)
            if target != self.targets.get(key):  # the echo of a status is no change: the object keeps its turn
                self.targets[key] = target
            self.invalid.pop(key, None)
        except SpecError as error:
            self.targets.pop(key, None)
            self.invalid[key] = str(error)

    def on_broken_resource(self, key: str, error: Exception) -> None:
        """An object that is not even JSON of the right shape: nothing is done with it until it is."""
        self.targets.pop(key, None)
        self.invalid[key] = str(error)

    def on_workload(self, kind: str, key: str, workload: Workload) -> None:
        """An event of something that can be scaled."""
        scaled = workload.key
        if kind == DELETED:
            self.workloads.pop(scaled, None)
            self.unread_scales.discard(scaled)
            self._selectors.pop(scaled, None)
            return
        self.workloads[scaled] = workloads.follow(workload, self.workloads.get(scaled))
        if workload.selector is not None:
            self.unread_scales.add(scaled)

    def set_scale(self, scaled: str, replicas: int, selector: str) -> None:
        """What a workload's scale says. Raises SelectorError when its selector is none."""
        chosen = selectors.parse(selector)
        workload = self.workloads.get(scaled)
        if workload is not None:
            self.workloads[scaled] = msgspec.structs.replace(workload, replicas=replicas, selector=selector)
            self._selectors[scaled] = chosen
            self.unread_scales.discard(scaled)

    def is_known(self, scaled: str) -> bool:
        """Whether there is such a workload, with its scale."""
        workload = self.workloads.get(scaled)
        return workload is not None and workload.selector != ""

    def owned_by(self, owner: str, namespace: str) -> list[str]:
        """Keys of the workloads that an object (`Kind name`) controls."""
        return [key for key, one in self.workloads.items() if one.owner == owner and one.namespace == namespace]

    def on_pod(self, kind: str, key: str, pod: PodView) -> None:
        """A pod event."""
        self._by_label.pop(pod.namespace, None)
        if kind == DELETED:
            self._all_pods.get(pod.namespace, {}).pop(key, None)
        else:
            self._all_pods.setdefault(pod.namespace, {})[key] = pod
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
        workload = self.workloads.get(scaled)
        if workload is not None and workload.selector is not None:
            chosen = self._selectors.get(scaled, selectors.Selector())
            return [pod for pod in self._candidates(workload.namespace, chosen) if chosen.matches(dict(pod.labels))]
        return [pod for pod in self._pods.get(scaled, {}).values() if not pod.is_worker]

    def _candidates(self, namespace: str, selector: selectors.Selector) -> Iterable[PodView]:
        """Pods among which are all that the selector chooses; not the whole namespace for each of a thousand workloads in it."""
        pods = self._all_pods.get(namespace, {}).values()
        exact = selector.exact
        if exact is None:
            return pods
        label, value = exact
        by_label = self._by_label.setdefault(namespace, {})
        if label not in by_label:
            by_value = by_label[label] = {}
            for pod in pods:
                by_value.setdefault(dict(pod.labels).get(label, ""), []).append(pod)
        return by_label[label].get(value, ())

    def workers_of(self, scaled: str) -> list[PodView]:
        """The other pods of a workload's groups."""
        return [pod for pod in self._pods.get(scaled, {}).values() if pod.is_worker]

    def all_pods(self) -> list[PodView]:
        """Every pod."""
        return [pod for pods in self._all_pods.values() for pod in pods.values()]

    def conflict(self, target: Target) -> str:
        """Who else scales the same object; empty when nobody does. Of two InferenceAutoscalers that act the older one does.

        One that only advises is in nobody's way.
        """
        if other := self._other_of.get(target.scaled):
            return other
        mine = self._age(target.key)
        for rival in self._rivals(target.scaled):
            if rival == target.key or self.targets[rival].advisory:
                continue
            if target.advisory or self._age(rival) < mine:
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
