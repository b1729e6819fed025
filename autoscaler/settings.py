"""Settings of `headroom autoscaler`."""

from dataclasses import dataclass

from headroom.daemon.common import LeaderSettings
from headroom.daemon.settings import setting
from headroom.domain.engines import CUSTOM, NameMapError, renamed
from headroom.errors import HeadroomError
from headroom.prometheus.series import DEVICE_JOBS
from headroom.prometheus.settings import PrometheusSettings


@dataclass(frozen=True)
class AutoscalerSettings(PrometheusSettings, LeaderSettings):
    """See each field's reason; `headroom autoscaler --help` prints them."""

    port: int = setting(8902, minimum=0, maximum=65535, reason="Port of the probes and the metrics.")
    prometheus_url: str = setting(
        "http://prometheus-operated.monitoring:9090", reason="URL of the Prometheus that has the engines' metrics."
    )
    prometheus_timeout_seconds: float = setting(
        5.0, unit="s", minimum=0.1, maximum=60.0,
        reason="An answer of Prometheus that takes longer is not waited for. Shorter than the tick, so that a hung Prometheus"
        " cannot delay the next one.",
    )  # fmt: skip
    device_jobs: tuple[str, ...] = setting(
        DEVICE_JOBS,
        reason="Scrape jobs, as JOB or NAMESPACE:JOB, whose exported_ labels are believed. Exporters for devices report on pods"
        " other than their own, and carry such labels. From all other jobs these labels are dropped.",
    )
    metric_names: tuple[str, ...] = setting(
        (),
        reason="Names of engines' metrics that differ in this installation, as PUBLISHED=HERE, with at most one * in each,"
        " separated by commas, such as vllm:*=kserve_vllm:*.",
    )
    default_objective: str = setting(
        "none", choices=("none", "engine"),
        reason="Objective of InferenceAutoscalers that state none. none: they are sized by the target of their work signal. engine:"
        " they get the default objective of their engine.",
    )  # fmt: skip
    extender_url: str = setting(
        "http://headroom-scheduler.headroom-system:8901",
        reason="URL of the scheduler extender, which is asked before every raise how many more pods fit. If empty, replicas are"
        " raised without asking.",
    )
    extender_timeout_seconds: float = setting(
        2.0,
        unit="s",
        minimum=0.1,
        reason="If the extender's answer takes longer, it counts as unknown how many pods fit.",
    )
    namespace: str = setting("", reason="Namespace to watch; empty for all.")
    tick_seconds: float = setting(
        15.0, unit="s", minimum=0.2, maximum=300.0,
        reason="Time between decisions. Shorter than a scrape interval brings nothing: there is no new data between two scrapes.",
    )  # fmt: skip
    stale_seconds: float = setting(
        60.0,
        unit="s",
        minimum=1.0,
        reason="Samples older than this do not count. The default is the time of four scrapes every 15 s.",
    )
    short_mean_seconds: float = setting(
        30.0, unit="s", minimum=1.0, reason="Time over which the faster of the two means of token rates is taken."
    )
    long_mean_seconds: float = setting(
        60.0, unit="s", minimum=1.0, reason="Time over which the slower of the two means of token rates is taken."
    )
    status_refresh_seconds: float = setting(
        60.0, unit="s", minimum=1.0,
        reason="How often a status is written when only its readings changed. Decisions and conditions are written at once.",
    )  # fmt: skip
    writers: int = setting(
        8, minimum=1, maximum=128, reason="How many writes to the API server may be under way at once."
    )
    lease_name: str = setting("headroom-autoscaler", reason="Name of that Lease.")
    lease_namespace: str = setting(
        "headroom-system", reason="Namespace of the Lease by which several processes elect the one that acts."
    )
    lease_seconds: float = setting(
        10.0,
        unit="s",
        minimum=2.0,
        reason="A leader that has not renewed the Lease for so long is replaced. It stops acting by itself before that.",
    )
    identity: str = setting("", reason="This process's name in the Lease. If empty, the host name and a random part.")
    dry_run: bool = setting(False, reason="Decide, log and count, but write nothing: no scale, no status, no event.")
    project_budgets: tuple[str, ...] = setting(
        (),
        reason="GPU budgets of projects, as PROJECT=GPUS, separated by commas. Projects that are not named have no limit.",
    )
    keda: bool = setting(True, reason="Look for KEDA's ScaledObjects with the same targets, which count as conflicts.")


class MetricNamesError(HeadroomError, ValueError):
    """A map of metric names that cannot be read."""


def metric_names(settings: AutoscalerSettings) -> tuple[tuple[str, str], ...]:
    """(published, here) pairs. Raises MetricNamesError naming the entry."""
    pairs = []
    for entry in settings.metric_names:
        published, _, here = entry.partition("=")
        try:
            renamed(CUSTOM, [(published, here)])
        except NameMapError as error:
            raise MetricNamesError(f"--metric-names: {entry!r} {error}") from error
        pairs.append((published, here))
    return tuple(pairs)


class BudgetError(HeadroomError, ValueError):
    """A project budget that cannot be read."""


def budgets(settings: AutoscalerSettings) -> dict[str, float]:
    """Project -> GPUs. Raises BudgetError naming the entry."""
    result = {}
    for entry in settings.project_budgets:
        project, _, amount = entry.partition("=")
        try:
            result[project] = float(amount)
        except ValueError as error:
            raise BudgetError(f"--project-budgets: {entry!r} is not PROJECT=GPUS") from error
        if not project or not result[project] >= 0:
            raise BudgetError(f"--project-budgets: {entry!r} is not PROJECT=GPUS")
    return result
