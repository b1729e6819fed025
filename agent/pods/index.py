"""The pods of this node, as far as the agent reads them. Pure."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import msgspec

from headroom import wire
from headroom.domain.request import project_of

_FINISHED: Final = frozenset({"Succeeded", "Failed"})
_STATIC_POD: Final = "kubernetes.io/config.hash"
"""Kubelet's own id of a static pod, which is what its cgroup is named after."""


class ContainerStatus(wire.ContainerStatus):
    """Adds the container's id, `containerd://<64 hexadecimal digits>`."""

    container_id: str = msgspec.field(name="containerID", default="")


class PodStatus(wire.PodStatus):
    """Adds the ids of containers."""

    container_statuses: tuple[ContainerStatus, ...] = ()
    init_container_statuses: tuple[ContainerStatus, ...] = ()


class NodePod(wire.Pod):
    """A pod with the fields the agent needs beyond the scheduler's."""

    status: PodStatus = msgspec.field(default_factory=PodStatus)


NODE_POD: Final = wire.Decoder(NodePod)


@dataclass(frozen=True, slots=True, order=True)
class PodKey:
    """What a pod's series and bookings are labelled with."""

    namespace: str
    name: str
    project: str
    """Label `headroom.dev/project`, else the namespace."""


def key_of(pod: wire.Pod) -> PodKey:
    """The labels of a pod."""
    return PodKey(pod.metadata.namespace or "default", pod.metadata.name, project_of(pod))


def is_finished(pod: wire.Pod) -> bool:
    """Whether all its containers have ended for good, so that it holds no card."""
    return pod.status.phase in _FINISHED


class PodIndex:
    """Pods of the node by UID, by name and by container."""

    def __init__(self, pods: Iterable[NodePod] = ()) -> None:
        self.by_name: dict[tuple[str, str], NodePod] = {}
        self._by_uid: dict[str, NodePod] = {}
        self._containers: dict[str, str] = {}
        for pod in pods:
            self.by_name[pod.metadata.namespace or "default", pod.metadata.name] = pod
            self._by_uid[pod.metadata.uid] = pod
            if (static := pod.metadata.annotations.get(_STATIC_POD)) is not None:
                self._by_uid[static] = pod
            for status in (*pod.status.container_statuses, *pod.status.init_container_statuses):
                self._containers[status.container_id.rpartition("//")[2]] = status.name

    def pod(self, uid: str) -> NodePod | None:
        """The pod whose UID (or static pod hash) names a cgroup."""
        return self._by_uid.get(uid)

    def container(self, container_id: str) -> str:
        """The name of a container by its id; empty when unknown."""
        return self._containers.get(container_id, "") if container_id else ""

    def __iter__(self) -> Iterator[NodePod]:
        return iter(self.by_name.values())
