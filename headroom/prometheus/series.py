"""Series as anybody here reads them, and whose word their labels are. Pure.

Where Prometheus does not honour the labels of a target (`honor_labels: false`, its default), the target's own labels that clash
with those of its discovery come as `exported_*`. For metrics of devices these are the ones that matter: dcgm-exporter tells of
other pods than its own. But any pod that is scraped can export any metric with any label, so they are honoured only for metrics
of devices, and only from scrape jobs that the operator named. Everything else says what it says of the pod that was scraped.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Final, Protocol, TypeAlias

Point: TypeAlias = tuple[float, float]
"""Unix seconds and value."""

EXPORTED: Final = "exported_"

DEVICE_JOBS: Final = (
    "headroom-agent", "headroom-system/*",
    "dcgm-exporter", "nvidia-dcgm-exporter", "gpu-metrics", "gpu-operator/*",
    "monitoring/*dcgm-exporter", "kube-system/*dcgm-exporter", "gke-managed-dcgm-exporter",
    "headroom-system:*", "gpu-operator:*", "nvidia-gpu-operator:*",
)  # fmt: skip
"""Scrape jobs under which Headroom's agent and dcgm-exporter are usually found: as documented for each, by Helm chart and GPU
Operator (ServiceMonitor: the Service's name), as PodMonitor (`namespace/name`), and whatever job scrapes a pod of Headroom or of
the GPU Operator (`namespace:job`), such as one that goes by annotations."""


class Series(Protocol):
    """A series of `headroom.prometheus.client`, as far as it is read."""

    @property
    def labels(self) -> Mapping[str, str]:
        """Label values by name."""
        ...

    @property
    def points(self) -> Sequence[Point]:
        """(Unix seconds, value), oldest first."""
        ...


class Odd(Protocol):
    """A series that holds no number."""

    @property
    def labels(self) -> Mapping[str, str]:
        """Label values by name."""
        ...

    @property
    def held(self) -> str:
        """What it holds instead, in words."""
        ...


class Answer(Protocol):
    """An answer, whose series are read while iterating."""

    def __iter__(self) -> Iterator[Series]:
        """The series that hold numbers. Raises PrometheusError."""
        ...

    @property
    def odd(self) -> Sequence[Odd]:
        """The others, as far as they have been read."""
        ...

    @property
    def warnings(self) -> Sequence[str]:
        """Why the answer is not the whole one; empty when it is."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """What Prometheus remarks on the expression."""
        ...


class Source(Protocol):
    """Where series come from: `headroom.prometheus.client.PrometheusSource`, as far as it is asked."""

    async def query(self, promql: str) -> Sequence[Series]:
        """Answer one query. Raises PrometheusError."""
        ...

    async def ask(self, promql: str) -> Answer:
        """As `query`, for large answers. Raises PrometheusError, here or while the series are read."""
        ...


def newest(points: Sequence[Point]) -> Point | None:
    """The last point with a finite value; None when there is none. A value that is not finite is no reading, not zero."""
    for point in reversed(points):
        if math.isfinite(point[1]):
            return point
    return None


class DeviceJobs:
    """Which scrape jobs are believed about other pods than the one scraped.

    `jobs` are `JOB` or `NAMESPACE:JOB`, the namespace being that of the scraped pod; `*` stands for any text. A series without a
    `job` label is believed, too: Prometheus gives one to all that it scrapes, so such a series comes from a recording rule of
    whoever runs it.
    """

    def __init__(self, jobs: Iterable[str] = DEVICE_JOBS) -> None:
        self._patterns = [(entry.rpartition(":")[0] or "*", entry.rpartition(":")[2]) for entry in jobs]
        self._known: dict[tuple[str, str], bool] = {}

    def believed(self, job: str, namespace: str = "") -> bool:
        """Whether the job is one of those named, scraping a pod of this namespace."""
        key = job, namespace
        if key not in self._known:
            self._known[key] = not job or any(
                fnmatchcase(job, pattern) and fnmatchcase(namespace, where) for where, pattern in self._patterns
            )
        return self._known[key]

    def _believes(self, labels: Mapping[str, str]) -> bool:
        return self.believed(labels.get("job", ""), labels.get("namespace", ""))

    def doubted(self, labels: Mapping[str, str]) -> bool:
        """Whether the series speaks of others by labels that are not honoured; name its job when it is left out."""
        return any(name.startswith(EXPORTED) for name in labels) and not self._believes(labels)

    def own_labels(self, labels: Mapping[str, str]) -> Mapping[str, str]:
        """The labels of a device's series as its exporter gave them, from a job that is believed; from others without `exported_*`."""
        clashing = [name for name in labels if name.startswith(EXPORTED)]
        if not clashing:
            return labels
        own = {name: value for name, value in labels.items() if not name.startswith(EXPORTED)}
        if self._believes(labels):
            own |= {name.removeprefix(EXPORTED): labels[name] for name in clashing}
        return own


def target_labels(labels: Mapping[str, str]) -> Mapping[str, str]:
    """What a series of anything but a device says of the pod that was scraped: all labels but `exported_*`."""
    if not any(name.startswith(EXPORTED) for name in labels):
        return labels
    return {name: value for name, value in labels.items() if not name.startswith(EXPORTED)}
