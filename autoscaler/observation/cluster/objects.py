"""The Kubernetes objects that the autoscaler watches, as few fields as it reads. Pure."""

import datetime
import sys
from typing import Final

import msgspec

from autoscaler.api.resource import scaled_key
from headroom.names import (
    ANNOTATION_ASSIGNED_CARDS,
    ANNOTATION_ASSIGNED_VRAM_SHARE,
    ANNOTATION_DELETION_COST,
)
from headroom.wire import Condition, ContainerStatus, Decoder, Meta, Wire

LWS_LABEL: Final = "leaderworkerset.sigs.k8s.io/name"
LWS_WORKER_LABEL: Final = "leaderworkerset.sigs.k8s.io/worker-index"

FAILING: Final = frozenset(
    {
        "CrashLoopBackOff",
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "CreateContainerConfigError",
        "CreateContainerError",
        "RunContainerError",
    }
)
"""Reasons of a waiting container that will not go away by waiting."""
_RESTARTS: Final = 3
"""A container that has ended so often ..."""
_SHORT_SECONDS: Final = 600.0
"""... and ran no longer than this crash-loops, also while it runs again: kubelet forgets its back-off after such a time."""


class PodSpecWire(Wire):
    node_name: str = ""


class PodIP(Wire):
    ip: str = ""


class PodStatusWire(Wire):
    phase: str = ""
    conditions: list[Condition] = msgspec.field(default_factory=list)
    pod_ip: str = msgspec.field(name="podIP", default="")
    pod_ips: list[PodIP] = msgspec.field(name="podIPs", default_factory=list)
    container_statuses: list[ContainerStatus] = msgspec.field(default_factory=list)
    init_container_statuses: list[ContainerStatus] = msgspec.field(default_factory=list)


class Pod(Wire):
    metadata: Meta = msgspec.field(default_factory=Meta)
    spec: PodSpecWire = msgspec.field(default_factory=PodSpecWire)
    status: PodStatusWire = msgspec.field(default_factory=PodStatusWire)


class PodView(msgspec.Struct, frozen=True, gc=False):
    """What the autoscaler keeps of a pod. Times are seconds since the epoch, 0 where there is none."""

    namespace: str
    name: str
    owner: str
    """`Kind/namespace/name` of the workload, empty for pods of others."""
    node: str
    ip: str
    phase: str
    created_at: float
    scheduled_at: float
    ready_at: float
    """0 while not ready."""
    deleted_at: float
    failing: bool
    cards: tuple[str, ...]
    share: float
    """Of a card, per share, 0 when unknown."""
    deletion_cost: str
    more_ips: tuple[str, ...] = ()
    """Beside `ip`, where the cluster speaks two IP families."""
    is_worker: bool = False
    """One of a group's pods beside its leader: no replica of its own, though it may serve."""
    controller: str = ""
    """Kind of the object that controls it."""
    labels: tuple[tuple[str, str], ...] = ()


def view(pod: Pod) -> PodView:
    """Reduce a pod to what is kept."""
    meta = pod.metadata
    scheduled_at = ready_at = 0.0
    for condition in pod.status.conditions:
        if condition.type == "PodScheduled" and condition.status == "True":
            scheduled_at = seconds(condition.last_transition_time)
        elif condition.type == "Ready" and condition.status == "True":
            ready_at = seconds(condition.last_transition_time) or seconds(meta.creation_timestamp)
    statuses = (*pod.status.container_statuses, *pod.status.init_container_statuses)
    annotations = meta.annotations
    cards = tuple(card for card in annotations.get(ANNOTATION_ASSIGNED_CARDS, "").split(",") if card)
    return PodView(
        namespace=meta.namespace,
        name=meta.name,
        owner=owner_of(meta),
        node=pod.spec.node_name,
        ip=pod.status.pod_ip,
        phase=pod.status.phase,
        created_at=seconds(meta.creation_timestamp),
        scheduled_at=scheduled_at or (seconds(meta.creation_timestamp) if pod.spec.node_name else 0.0),
        ready_at=ready_at,
        deleted_at=seconds(meta.deletion_timestamp),
        failing=any(_is_failing(status) for status in statuses),
        cards=cards,
        share=_share(annotations.get(ANNOTATION_ASSIGNED_VRAM_SHARE, "")),
        deletion_cost=annotations.get(ANNOTATION_DELETION_COST, ""),
        more_ips=tuple([one.ip for one in pod.status.pod_ips if one.ip and one.ip != pod.status.pod_ip]),
        is_worker=meta.labels.get(LWS_WORKER_LABEL, "0") != "0" and LWS_LABEL in meta.labels,
        controller=next((sys.intern(owner.kind) for owner in meta.owner_references if owner.controller), ""),
        labels=_kept(meta.labels),
    )


def _kept(labels: dict[str, str]) -> tuple[tuple[str, str], ...]:
    """The labels, for selectors. Texts that many pods share are kept once."""
    return tuple([(sys.intern(name), sys.intern(value)) for name, value in labels.items()])


def _is_failing(status: ContainerStatus) -> bool:
    if status.state and status.state.waiting and status.state.waiting.reason in FAILING:
        return True
    if status.state and status.state.terminated and status.state.terminated.reason == "Completed":
        return False  # an init container that is done
    if status.ready or status.restart_count < _RESTARTS:
        return False
    ended = [state.terminated for state in (status.state, status.last_state) if state and state.terminated]
    ran = [seconds(one.finished_at) - seconds(one.started_at) for one in ended if one.finished_at and one.started_at]
    return not ran or ran[0] < _SHORT_SECONDS


def owner_of(meta: Meta) -> str:
    """The workload a pod belongs to by its controller, not by labels that a selector happens to match.

    A Deployment's ReplicaSet is named after it and the pod-template-hash that the pod carries too.
    """
    if group := meta.labels.get(LWS_LABEL):
        return f"LeaderWorkerSet/{meta.namespace}/{group}"
    for owner in meta.owner_references:
        if not owner.controller:
            continue
        if owner.kind == "ReplicaSet":
            suffix = "-" + meta.labels.get("pod-template-hash", "")
            if len(suffix) > 1 and owner.name.endswith(suffix):
                return f"Deployment/{meta.namespace}/{owner.name.removesuffix(suffix)}"
        elif owner.kind == "StatefulSet":
            return f"StatefulSet/{meta.namespace}/{owner.name}"
    return ""


class ReferenceWire(Wire):
    api_version: str = "apps/v1"
    kind: str = "Deployment"
    """KEDA's default, too."""
    name: str = ""


class ScalerSpec(Wire):
    scale_target_ref: ReferenceWire = msgspec.field(default_factory=ReferenceWire)


class OtherScaler(Wire):
    """A HorizontalPodAutoscaler or ScaledObject."""

    metadata: Meta = msgspec.field(default_factory=Meta)
    spec: ScalerSpec = msgspec.field(default_factory=ScalerSpec)

    @property
    def scaled(self) -> str:
        """Key of what it scales (`autoscaler.api.resource.scaled_key`)."""
        reference = self.spec.scale_target_ref
        return scaled_key(reference.api_version, reference.kind, self.metadata.namespace, reference.name)


class OtherScalerList(Wire):
    items: list[OtherScaler] = msgspec.field(default_factory=list)


class _PodViewDecoder:
    """Decodes a pod straight into its view, so that only the view is kept."""

    def decode(self, data: bytes | msgspec.Raw, /) -> PodView:
        return view(POD.decode(data))


POD: Final = Decoder(Pod)
POD_VIEW: Final = _PodViewDecoder()
OTHER_SCALER: Final = Decoder(OtherScaler)
OTHER_SCALERS: Final = Decoder(OtherScalerList)


def seconds(stamp: str | None) -> float:
    """RFC 3339 to seconds since the epoch; 0 for none or nonsense."""
    if not stamp:
        return 0.0
    try:
        return datetime.datetime.fromisoformat(stamp).timestamp()
    except ValueError:
        return 0.0


def stamp(at_seconds: float) -> str:
    """Seconds since the epoch as RFC 3339 in whole seconds, as the API server writes times."""
    return datetime.datetime.fromtimestamp(at_seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _share(text: str) -> float:
    try:
        return min(max(float(text), 0.0), 1.0)
    except ValueError:
        return 0.0
