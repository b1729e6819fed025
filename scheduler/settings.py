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
        reason="Port on which filter, prioritize, bind and preempt are answered once the three TLS files are named; the other port then"
        " answers none of them. For extenders in the host's network, where every program of the host calls from 127.0.0.1.",
    )
    tls_cert_file: str = setting("", reason="Certificate of the extender, PEM.")
    tls_key_file: str = setting("", reason="Its key, PEM.")
    tls_client_ca_file: str = setting(
        "", reason="Authority, PEM, whose certificates kube-scheduler may show. One that signs for nobody else is best."
    )
    tls_client_names: tuple[str, ...] = setting(
        (),
        reason="Common names that the certificate may carry; any where none is given. Needed where the authority signs for others, too.",
    )
    lease_namespace: str = setting(
        "",
        reason="Namespace of the Lease that elects the one extender that decides, where several run beside a kube-scheduler"
        " each; empty where there is only one.",
    )
    lease_name: str = setting("headroom-extender", reason="Name of that Lease.")
    lease_seconds: float = setting(
        15.0,
        unit="s",
        minimum=1.0,
        reason="After this long a silent extender has lost the lease; the same as kube-scheduler's own, which the successor"
        " waits for anyway. At least three times --bind-timeout-seconds.",
    )
    scheduler_names: tuple[str, ...] = setting(
        (names.SCHEDULER_NAME,),
        reason="Pods with one of these scheduler names are named ahead and preempt; others are only accounted for.",
    )
    gpushare_unit: str = setting(
        AUTO,
        choices=(AUTO, *UNITS),
        reason="What `aliyun.com/gpu-mem` counts; auto learns it from nodes of gpushare's device plugin; else GiB, MiB from 1024 on.",
    )
    foreign_records: tuple[str, ...] = setting(
        (),
        reason="During a move: other schedulers whose record of a pod's cards is read from its annotations (hami, gpushare, kai;"
        " hami=NAME for another scheduler name). Whoever may write annotations on such a pod says which cards it holds.",
    )
    resource_claims: bool = setting(
        True,
        reason="Watch what kube-scheduler allocates itself (DRA): DeviceClasses, ResourceSlices and ResourceClaims of resource.k8s.io/v1."
        " Where the cluster does not serve them, nothing is watched. Off, claims on cards count for nothing.",
    )
    pin_claimable_cards: bool = setting(
        False,
        reason="Let Headroom pick cards that kube-scheduler may give to resource claims as well. It does not know of those picks:"
        " right only where nobody's claims ask for these cards. An Event on the pod tells where it happens all the same.",
    )
    policy: str = setting(
        "headroom",
        choices=POLICIES,
        reason="Placement policy: which of the nodes and cards that fit a pod gets. docs/placement.md compares them.",
    )
    answer: str = setting(
        DECISIVE,
        choices=(DECISIVE, SCORED),
        reason="decisive returns the one best node; scored returns all nodes that fit and leaves the choice to"
        " kube-scheduler, which breaks the many ties of an integer 0..10 at random.",
    )
    place_pods_without_gpu: bool = setting(
        False,
        reason="Choose nodes for pods that ask for no GPU, too: on nodes with cards they take CPU that pods with a GPU will"
        " need. kube-scheduler must then ask about every pod: its extender entry has no managedResources.",
    )
    max_body_mib: int = setting(
        32,
        unit="MiB",
        minimum=1,
        maximum=1024,
        reason="Longest request body; 5,000 whole Node objects take about 20 MiB.",
    )
    reservation_seconds: float = setting(
        30.0,
        unit="s",
        minimum=1.0,
        reason="How long a filter's choice holds its cards before bind. Longer than any sane bind; short enough that a"
        " scheduler that died costs little.",
    )
    watch_silence_seconds: float = setting(
        240.0,
        unit="s",
        minimum=1.0,
        reason="A watch of nodes or pods from which nothing has come for so long, bookmarks included, is not believed: the extender is not"
        " ready until it is heard again. A dead watch is noticed after 150 s, and a new one may be silent for another minute.",
    )
    unsure_seconds: float = setting(
        180.0,
        unit="s",
        minimum=1.0,
        reason="How long a binding without an answer may still be written: the cards stay with the pod, then a read decides. Longer than"
        " the API server's own --request-timeout (60 s) and than it takes to notice a dead watch (150 s).",
    )
    nomination_seconds: float = setting(
        120.0, unit="s", minimum=1.0, reason="How long a node named ahead or freed by preemption is held for its pod."
    )
    sweep_seconds: float = setting(1.0, unit="s", minimum=0.05, reason="How often expired reservations are given back.")
    wake_delay_seconds: float = setting(
        0.25,
        unit="s",
        minimum=0.0,
        reason="How long freed memory is collected before refused pods are woken, so that a burst of endings wakes them once.",
    )
    prometheus_url: str = setting(
        "", reason="Prometheus to read measured VRAM from; empty leaves it to what pods declare."
    )
    prometheus_timeout_seconds: float = setting(
        5.0, unit="s", minimum=0.1, maximum=60.0, reason="A slower answer counts as none; the next reading comes soon."
    )
    plan_every_seconds: float = setting(
        30.0,
        unit="s",
        minimum=1.0,
        reason="How often a policy that plans for the pods to come renews its plan; it does so sooner when the pods seen have doubled.",
    )
    plan_every_pods: int = setting(
        0,
        unit="pods",
        minimum=0,
        reason="Above 0, the plan is renewed by so many new pods, before the next decision, and not by the clock: equal pods in equal"
        " order then get equal places. For simulations in virtual time; decisions wait for the plan.",
    )
    device_jobs: tuple[str, ...] = setting(
        DEVICE_JOBS,
        reason="Scrape jobs, as JOB or NAMESPACE:JOB, whose exported_ labels are believed: device exporters speak of other"
        " pods and nodes than their own. Nobody else may, so labels of other jobs that claim to are dropped.",
    )
    measured_every_seconds: float = setting(15.0, unit="s", minimum=1.0, reason="How often measured VRAM is read.")
    measured_max_age_seconds: float = setting(
        60.0, unit="s", minimum=1.0, reason="A measurement older than this does not count; four scrapes of 15 s."
    )
    measured_idle_mib: int = setting(
        IDLE_MIB,
        unit="MiB",
        minimum=0,
        maximum=2**20,
        reason="Memory in use on a card that is no pod's, up to which it does not count: idle cards show a few MiB, tools of the"
        " driver a few hundred.",
    )
    measured_start_seconds: float = setting(
        30.0,
        unit="s",
        minimum=0.0,
        reason="How long a start waits for the first reading of measured VRAM; after that what pods declare counts, and /readyz says so.",
    )
    preemption: bool = setting(True, reason="Evict pods of lower priority for a pod that fits nowhere.")
    preemption_seconds: float = setting(
        120.0,
        unit="s",
        minimum=1.0,
        reason="How long a preemption may take before another node is tried; covers usual grace periods.",
    )
    fair_wait_seconds: float = setting(
        300.0,
        unit="s",
        minimum=0.0,
        reason="A pod that no node has had room for during so long gets a node kept: the one on which the least must end before it fits"
        " takes no pods that come after it (of lower priority, or equals and younger) until it is bound. Nobody is evicted. 0 is never.",
    )
    naming_ahead: bool = setting(
        True, reason="In a backlog, name nodes for waiting pods before kube-scheduler gets to them."
    )
    naming_ahead_backlog: int = setting(
        16,
        unit="pods",
        minimum=1,
        reason="Waiting pods from which a backlog counts as one; below it, kube-scheduler is as fast alone.",
    )
    naming_ahead_parallel: int = setting(
        24,
        unit="calls",
        minimum=1,
        maximum=256,
        reason="Status patches under way at once; more only queue up in the API server.",
    )
    event_every_seconds: float = setting(
        300.0,
        unit="s",
        minimum=1.0,
        reason="Least time between two Events on one pod, so that a pod that waits does not flood etcd.",
    )
    bind_timeout_seconds: float = setting(
        4.0,
        unit="s",
        minimum=0.1,
        reason="Longest wait for the API server's answer to a binding; below kube-scheduler's httpTimeout of 5 s.",
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
