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
        "http://prometheus-operated.monitoring:9090", reason="Where the engines' metrics are."
    )
    prometheus_timeout_seconds: float = setting(
        5.0, unit="s", minimum=0.1, maximum=60.0,
        reason="A slower answer counts as none; below the tick, so that a hung Prometheus cannot delay the next one.",
    )  # fmt: skip
    device_jobs: tuple[str, ...] = setting(
        DEVICE_JOBS,
        reason="Scrape jobs, as JOB or NAMESPACE:JOB, whose exported_ labels are believed: device exporters speak of other"
        " pods than their own. Nobody else may, so labels of other jobs that claim to are dropped.",
    )
    metric_names: tuple[str, ...] = setting(
        (),
        reason="Names under which this installation exports engines' metrics, as PUBLISHED=HERE with at most one * in each,"
        " several by comma, such as vllm:*=kserve_vllm:*.",
    )
    default_objective: str = setting(
        "none", choices=("none", "engine"),
        reason="Objective of objects that state none: none sizes them by the target of their work signal, as before there were"
        " objectives; engine gives them the default of their engine.",
    )  # fmt: skip
    extender_url: str = setting(
        "http://headroom-scheduler.headroom-system:8901",
        reason="Asked before every raise how many more pods fit; empty to raise without asking.",
    )
    extender_timeout_seconds: float = setting(2.0, unit="s", minimum=0.1, reason="A slower answer counts as not known.")
    namespace: str = setting("", reason="Namespace to watch; empty for all.")
    tick_seconds: float = setting(
        15.0, unit="s", minimum=0.2, maximum=300.0,
        reason="Time between decisions; there is nothing new to see between two scrapes.",
    )  # fmt: skip
    stale_seconds: float = setting(
        60.0, unit="s", minimum=1.0, reason="Older samples are stale: four scrapes of 15 s were missed."
    )
    short_mean_seconds: float = setting(
        30.0, unit="s", minimum=1.0, reason="The faster of the two means of token rates."
    )
    long_mean_seconds: float = setting(
        60.0, unit="s", minimum=1.0, reason="The slower of the two means of token rates."
    )
    status_refresh_seconds: float = setting(
        60.0, unit="s", minimum=1.0,
        reason="How often readings alone are written to a status; decisions and conditions are written at once.",
    )  # fmt: skip
    writers: int = setting(8, minimum=1, maximum=128, reason="Writes to the API server under way at once.")
    lease_name: str = setting("headroom-autoscaler", reason="Name of that Lease.")
    lease_namespace: str = setting("headroom-system", reason="Namespace of the Lease that elects the one that acts.")
    lease_seconds: float = setting(
        10.0, unit="s", minimum=2.0, reason="A leader silent for so long is replaced; it stops acting by itself before."
    )
    identity: str = setting("", reason="Name in the Lease; empty for the host name and a random part.")
    dry_run: bool = setting(False, reason="Decide, log and count, but write nothing: no scale, no status, no event.")
    project_budgets: tuple[str, ...] = setting(
        (), reason="GPU budgets of projects, as PROJECT=GPUS, several by comma; others have none."
    )
    keda: bool = setting(True, reason="Look for KEDA's ScaledObjects on the same targets (they count as conflicts).")


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
