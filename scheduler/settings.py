"""Settings of `headroom scheduler`."""

from dataclasses import dataclass

from headroom import names
from headroom.daemon.common import LeaderSettings
from headroom.daemon.settings import SettingsError, setting
from headroom.domain.dialects.customs import AUTO, UNITS
from headroom.domain.model import IDLE_MIB
from headroom.prometheus.series import DEVICE_JOBS
from headroom.prometheus.settings import PrometheusSettings

_BINDS_PER_LEASE = 3
"""A lease is given up a third of its duration before others may take it: a bind must end in that."""
DECISIVE = "decisive"
SCORED = "scored"
POLICIES = (
    "headroom", "fgd", "bestfit", "gpupacking", "dotprod", "binpack-vram", "spread-vram", "binpack-slices", "spread-slices"
)  # fmt: skip
"""Those of the registry that can answer kube-scheduler: the others draw anew at every call (random) or must be told of every
placement in order (gpuclustering). They are for simulations."""


@dataclass(frozen=True)
class SchedulerSettings(PrometheusSettings, LeaderSettings):
    """See each field's reason; `headroom scheduler --help` prints them."""

    port: int = setting(8901, minimum=0, maximum=65535, reason="Port of the extender, the probes and the metrics.")
    allow_remote: bool = setting(
        False,
        reason="Answer filter, prioritize and bind to callers other than this machine. kube-scheduler runs beside the"
        " extender, and whoever may call bind may place pods.",
    )
    tls_port: int = setting(
        8904,
        minimum=0,
        maximum=65535,
        reason="Port on which filter, prioritize, bind and preempt are answered if the three TLS files are set; the other port then"
        " answers none of them. For extenders in the host's network, where every program on the host calls from 127.0.0.1.",
    )
    tls_cert_file: str = setting("", reason="Certificate of the extender, PEM.")
    tls_key_file: str = setting("", reason="Its key, PEM.")
    tls_client_ca_file: str = setting(
        "",
        reason="Certificate of the authority that signs kube-scheduler's client certificate, PEM. Best is an authority that signs for"
        " nobody else.",
    )
    tls_client_names: tuple[str, ...] = setting(
        (),
        reason="Common names that the client certificate may carry; empty allows any. Needed if the authority signs for others, too.",
    )
    lease_namespace: str = setting(
        "",
        reason="Namespace of the Lease by which several extenders elect the one that decides; empty if there is only one extender.",
    )
    lease_name: str = setting("headroom-extender", reason="Name of that Lease.")
    lease_seconds: float = setting(
        15.0,
        unit="s",
        minimum=1.0,
        reason="An extender that has not renewed the lease for so long has lost it. As long as kube-scheduler's own lease, for which"
        " the successor waits anyway. At least three times --bind-timeout-seconds.",
    )
    scheduler_names: tuple[str, ...] = setting(
        (names.SCHEDULER_NAME,),
        reason="Nodes are named ahead, and other pods evicted, only for pods with one of these scheduler names; all other pods are"
        " only counted.",
    )
    gpushare_unit: str = setting(
        AUTO,
        choices=(AUTO, *UNITS),
        reason="Unit of `aliyun.com/gpu-mem`. auto learns it from nodes with gpushare's device plugin; without such nodes, numbers"
        " below 1024 are GiB and others MiB.",
    )
    foreign_records: tuple[str, ...] = setting(
        (),
        reason="For a migration: other schedulers whose record of a pod's cards is read from the pod's annotations (hami, gpushare, kai;"
        " hami=NAME for another scheduler name). Whoever may write annotations on such a pod can then say which cards it holds.",
    )
    resource_claims: bool = setting(
        True,
        reason="Watch what kube-scheduler allocates itself (DRA): DeviceClasses, ResourceSlices and ResourceClaims of resource.k8s.io/v1."
        " If the cluster does not serve them, nothing is watched. With false, claims on cards are not counted.",
    )
    pin_claimable_cards: bool = setting(
        False,
        reason="Let Headroom pick cards that kube-scheduler may also give to resource claims. kube-scheduler does not know of"
        " Headroom's picks, so use this only if no claim asks for these cards. If a card is given away twice all the same, an"
        " Event on the pod tells.",
    )
    policy: str = setting(
        "headroom",
        choices=POLICIES,
        reason="Placement policy: which of the nodes and cards that fit a pod gets. docs/placement.md compares them.",
    )
    answer: str = setting(
        DECISIVE,
        choices=(DECISIVE, SCORED),
        reason="decisive returns the one best node. scored returns all nodes that fit, with scores from 0 to 10, and leaves the choice to"
        " kube-scheduler, which picks at random among equal scores.",
    )
    place_pods_without_gpu: bool = setting(
        False,
        reason="Choose nodes also for pods that ask for no GPU, because on nodes with cards they take CPU that pods with a GPU will need."
        " kube-scheduler must then ask about every pod: leave managedResources out of its extender entry.",
    )
    max_body_mib: int = setting(
        32,
        unit="MiB",
        minimum=1,
        maximum=1024,
        reason="Largest request body. 5,000 whole Node objects take about 20 MiB.",
    )
    reservation_seconds: float = setting(
        30.0,
        unit="s",
        minimum=1.0,
        reason="How long cards stay reserved between filter and bind. Longer than a usual binding takes, but short enough that little is"
        " lost when kube-scheduler dies in between.",
    )
    watch_silence_seconds: float = setting(
        240.0,
        unit="s",
        minimum=1.0,
        reason="If nothing, not even a bookmark, has come on the watch of nodes or pods for so long, the extender is not ready until"
        " something comes again. A dead watch is noticed after 150 s, and a new one may be silent for another minute.",
    )
    unsure_seconds: float = setting(
        180.0,
        unit="s",
        minimum=1.0,
        reason="How long the API server may still write a binding to which it gave no answer. Until then the pod keeps its cards;"
        " after that the extender finds out. Longer than the API server's own --request-timeout (60 s) and than it takes to"
        " notice a dead watch (150 s).",
    )
    nomination_seconds: float = setting(
        120.0, unit="s", minimum=1.0, reason="How long a node named ahead or freed by preemption is held for its pod."
    )
    sweep_seconds: float = setting(1.0, unit="s", minimum=0.05, reason="How often expired reservations are given back.")
    wake_delay_seconds: float = setting(
        0.25,
        unit="s",
        minimum=0.0,
        reason="How long to wait after memory came free before refused pods are woken, so that many pods that end together wake them once.",
    )
    prometheus_url: str = setting(
        "", reason="URL of the Prometheus from which measured VRAM is read; if empty, only what pods declare counts."
    )
    prometheus_timeout_seconds: float = setting(
        5.0,
        unit="s",
        minimum=0.1,
        maximum=60.0,
        reason="An answer of Prometheus that takes longer is not waited for; the next reading follows soon.",
    )
    plan_every_seconds: float = setting(
        30.0,
        unit="s",
        minimum=1.0,
        reason="How often a policy that plans for future pods renews its plan; it does so earlier if the number of pods seen has doubled.",
    )
    plan_every_pods: int = setting(
        0,
        unit="pods",
        minimum=0,
        reason="Above 0, the plan is renewed after so many new pods, before the next decision, and not by the clock. Then the same"
        " pods in the same order get the same places. For simulations in virtual time; decisions wait for the plan.",
    )
    device_jobs: tuple[str, ...] = setting(
        DEVICE_JOBS,
        reason="Scrape jobs, as JOB or NAMESPACE:JOB, whose exported_ labels are believed. Exporters for devices report on pods and nodes"
        " other than their own, and carry such labels. From all other jobs these labels are dropped.",
    )
    measured_every_seconds: float = setting(15.0, unit="s", minimum=1.0, reason="How often measured VRAM is read.")
    measured_max_age_seconds: float = setting(
        60.0,
        unit="s",
        minimum=1.0,
        reason="A measurement older than this does not count. The default is the time of four scrapes every 15 s.",
    )
    measured_idle_mib: int = setting(
        IDLE_MIB,
        unit="MiB",
        minimum=0,
        maximum=2**20,
        reason="Memory that is in use on a card and belongs to no pod is ignored up to this amount: idle cards show a few MiB, tools of the"
        " driver a few hundred.",
    )
    measured_start_seconds: float = setting(
        30.0,
        unit="s",
        minimum=0.0,
        reason="How long a start waits for the first reading of measured VRAM. After that only what pods declare counts, and /readyz"
        " says so.",
    )
    preemption: bool = setting(True, reason="Evict pods of lower priority for a pod that fits nowhere.")
    preemption_seconds: float = setting(
        120.0,
        unit="s",
        minimum=1.0,
        reason="How long a preemption may take before another node is tried. Longer than usual grace periods.",
    )
    fair_wait_seconds: float = setting(
        300.0,
        unit="s",
        minimum=0.0,
        reason="If no node has had room for a pod for so long, a node is kept for it: the one on which the least must come free before"
        " the pod fits. Until the pod is bound, this node takes no pods of lower priority, and none of equal priority that are"
        " younger. Nobody is evicted. 0 switches this off.",
    )
    placeholder_namespace: str = setting(
        "",
        reason="Namespace for placeholder pods, which ask a node autoscaler (Cluster Autoscaler, Karpenter) for nodes for pods that no node"
        " has room for. Off if empty: nodes cost money. It needs rights and a PriorityClass: docs/node-autoscaling.md.",
    )
    placeholder_wait_seconds: float = setting(
        30.0,
        unit="s",
        minimum=0.0,
        reason="How long a pod must have been without room before a placeholder asks for a node. A pod that ends may make room sooner than"
        " a node can start.",
    )
    placeholder_most: int = setting(
        20,
        unit="pods",
        minimum=1,
        maximum=1000,
        reason="Most placeholders at a time, each of one or more cards. The pods first in the queue get them; a mistake in a workload then"
        " buys no more nodes than that.",
    )
    placeholder_image: str = setting(
        "registry.k8s.io/pause:3.10",
        reason="Image named in placeholders. They never run, but policies of the cluster may ask where images come from.",
    )
    group_hold_seconds: float = setting(
        360.0,
        unit="s",
        minimum=1.0,
        reason="How long the places of a group stay reserved after the last of its pods was bound, or all were seated. Longer than its"
        " pods may wait for one another in kube-scheduler (5 minutes in Kubernetes' own gangs, 1 in coscheduling).",
    )
    naming_ahead: bool = setting(
        True, reason="If many pods wait, name nodes for them before kube-scheduler asks about them."
    )
    naming_ahead_backlog: int = setting(
        16,
        unit="pods",
        minimum=1,
        reason="How many pods must wait before nodes are named ahead; with fewer, kube-scheduler is as fast by itself.",
    )
    naming_ahead_parallel: int = setting(
        24,
        unit="calls",
        minimum=1,
        maximum=256,
        reason="How many names are written at once; more would only wait in the API server.",
    )
    event_every_seconds: float = setting(
        300.0,
        unit="s",
        minimum=1.0,
        reason="Shortest time between two Events on one pod, so that a waiting pod does not flood etcd.",
    )
    bind_timeout_seconds: float = setting(
        4.0,
        unit="s",
        minimum=0.1,
        reason="Longest wait for the API server's answer to a binding. Must be below kube-scheduler's httpTimeout, which is 5 s.",
    )


def check(settings: SchedulerSettings) -> None:
    """Raise SettingsError for what no field can tell by itself, before anything is connected to."""
    problems = []
    if settings.lease_namespace and settings.lease_seconds < _BINDS_PER_LEASE * settings.bind_timeout_seconds:
        problems.append(
            f"lease_seconds: {settings.lease_seconds:g} s is below three times bind_timeout_seconds"
            f" ({settings.bind_timeout_seconds:g} s): a binding could outlive the lease it was made under"
        )
    if not settings.scheduler_names:
        problems.append(f"scheduler_names: is empty; name at least one scheduler, such as {names.SCHEDULER_NAME}")
    if problems:
        raise SettingsError(problems)
