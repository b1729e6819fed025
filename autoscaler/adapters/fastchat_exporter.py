"""The FastChat poller: turns each worker's `queue_length` into a metric, since FastChat exports none.

It runs beside each worker (a sidecar: `headroom autoscaler fastchat-exporter`), so that the metric carries the pod's own
labels when Prometheus scrapes it, and ends with it. A worker that does not answer has no value: absent, not zero.
"""

import asyncio
from typing import Final

import aiohttp
import msgspec
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from headroom.daemon.logs import get_logger
from headroom.daemon.pages import Health, serving

log = get_logger(__name__)

METRIC: Final = "headroom_fastchat_queue_length"


class _Status(msgspec.Struct):
    """Answer to POST /worker_get_status."""

    queue_length: int
    model_names: list[str] = []


_STATUS: Final = msgspec.json.Decoder(_Status)


class FastchatPoller(Collector):
    """Asks one worker now and then; `collect` gives the last answer, and nothing after a poll without one."""

    def __init__(self, url: str, registry: CollectorRegistry, *, timeout_seconds: float = 2.0) -> None:
        self._url, self._timeout_seconds = f"{url.rstrip('/')}/worker_get_status", timeout_seconds
        self._last: _Status | None = None
        self._failures = Counter(
            "headroom_fastchat_poll_failures_total", "Polls that the worker did not answer.", registry=registry
        )
        registry.register(self)

    def collect(self) -> "list[Metric]":
        """Requests running and waiting at the worker; nothing while it does not answer."""
        family = GaugeMetricFamily(METRIC, "Requests running and waiting at the worker.", labels=["model_name"])
        if self._last is not None:
            family.add_metric([",".join(sorted(self._last.model_names))], self._last.queue_length)
        return [family]

    async def poll(self, session: aiohttp.ClientSession) -> bool:
        """One question; whether it was answered."""
        try:
            timeout = aiohttp.ClientTimeout(total=self._timeout_seconds)
            async with session.post(self._url, timeout=timeout) as response:
                response.raise_for_status()
                answer = _STATUS.decode(await response.read())
        except (TimeoutError, aiohttp.ClientError, OSError, msgspec.MsgspecError) as error:
            self._last = None
            self._failures.inc()
            log.warning("worker_does_not_answer", url=self._url, error=str(error))
            return False
        self._last = answer if answer.queue_length >= 0 else None
        return self._last is not None


async def serve(url: str, host: str, port: int, every_seconds: float) -> None:
    """The whole of `headroom autoscaler fastchat-exporter`."""
    registry = CollectorRegistry()
    poller = FastchatPoller(url, registry)
    health = Health(registry)
    health.set_ready("exporter", ready=True)
    async with serving(health.site(), host, port) as bound, aiohttp.ClientSession() as session:
        log.info("listening", host=host, port=bound, worker=url)
        while True:
            await poller.poll(session)
            await asyncio.sleep(every_seconds)
