"""Series as anybody here reads them, and whose word their labels are. Pure.

Where Prometheus does not honour the labels of a target (`honor_labels: false`, its default), the target's own labels that clash
with those of its discovery come as `exported_*`. For metrics of devices these are the ones that matter: dcgm-exporter tells of
other pods than its own. But any pod that is scraped can export any metric with any label, so they are honoured only for metrics
of devices, and only from scrape jobs that the operator named. Everything else says what it says of the pod that was scraped.
"""

import fnmatch
import re
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

EXPORTED: Final = "exported_"

DEVICE_JOBS: Final = (
    "headroom-agent", "headroom-system/*",
    "dcgm-exporter", "nvidia-dcgm-exporter", "gpu-metrics", "gpu-operator/*",
    "monitoring/*dcgm-exporter", "kube-system/*dcgm-exporter", "gke-managed-dcgm-exporter",
)  # fmt: skip
"""Scrape jobs under which Headroom's agent and dcgm-exporter are usually found: as documented for each, by Helm chart and GPU
Operator (ServiceMonitor: the Service's name), and as PodMonitor (`namespace/name`)."""


class Series(Protocol):
    """A series of `headroom.prometheus.client`, as far as it is read."""

    @property
    def labels(self) -> Mapping[str, str]:
        """Label values by name."""
        ...

    @property
    def points(self) -> Sequence[tuple[float, float]]:
        """(Unix seconds, value), oldest first."""
        ...


class Source(Protocol):
    """Where series come from."""

    async def query(self, promql: str) -> Sequence[Series]:
        """Answer one query. Raises PrometheusError."""
        ...


class DeviceJobs:
    """Which scrape jobs are believed about other pods than the one scraped; `*` in a name stands for any text.

    A series without a `job` label is believed, too: Prometheus gives one to all that it scrapes, so such a series comes from a
    recording rule of whoever runs it.
    """

    def __init__(self, jobs: Sequence[str] = DEVICE_JOBS) -> None:
        self._pattern = re.compile("|".join(fnmatch.translate(job) for job in jobs) or r"(?!)")
        self._known: dict[str, bool] = {"": True}

    def believed(self, job: str) -> bool:
        """Whether the job is one of those named."""
        found = self._known.get(job)
        if found is None:
            found = self._known[job] = self._pattern.match(job) is not None
        return found

    def doubted(self, labels: Mapping[str, str]) -> bool:
        """Whether the series speaks of others by labels that are not honoured; name its job when it is left out."""
        return not self.believed(labels.get("job", "")) and any(name.startswith(EXPORTED) for name in labels)

    def own_labels(self, labels: Mapping[str, str]) -> Mapping[str, str]:
        """The labels of a device's series as its exporter gave them, from a job that is believed; from others without `exported_*`."""
        clashing = [name for name in labels if name.startswith(EXPORTED)]
        if not clashing:
            return labels
        own = {name: value for name, value in labels.items() if not name.startswith(EXPORTED)}
        if self.believed(labels.get("job", "")):
            own |= {name.removeprefix(EXPORTED): labels[name] for name in clashing}
        return own


def target_labels(labels: Mapping[str, str]) -> Mapping[str, str]:
    """What a series of anything but a device says of the pod that was scraped: all labels but `exported_*`."""
    if not any(name.startswith(EXPORTED) for name in labels):
        return labels
    return {name: value for name, value in labels.items() if not name.startswith(EXPORTED)}
