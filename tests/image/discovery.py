"""The common pod job of a Prometheus: pods with `prometheus.io/scrape` are targets. Debian's Prometheus is built without
Kubernetes discovery, so a thread writes them into a file of targets, with the labels that discovery would give."""

import contextlib
import threading
from types import TracebackType
from typing import Self

from simulations.node.cluster import NodeCluster

_INTERVAL_SECONDS = 0.5


class Discovery:
    """Use as a context manager."""

    def __init__(self, node: NodeCluster) -> None:
        self._node, self._over = node, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        assert self._node.prometheus is not None
        while not self._over.wait(_INTERVAL_SECONDS):
            with contextlib.suppress(OSError):
                self._node.prometheus.scrape_each("pods", self._targets())
        self._node.prometheus.scrape_each("pods", {})

    def _targets(self) -> dict[str, dict[str, str]]:
        targets = {}
        for pod in self._node.pods():
            notes, address = pod["metadata"].get("annotations", {}), pod["status"].get("podIP")
            if notes.get("prometheus.io/scrape") == "true" and address and pod["status"]["phase"] == "Running":
                labels = {"namespace": pod["metadata"]["namespace"], "pod": pod["metadata"]["name"]}
                targets[f"{address}:{notes['prometheus.io/port']}"] = labels
        return targets
