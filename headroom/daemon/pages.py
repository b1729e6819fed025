"""The pages every daemon serves: /healthz, /readyz, /metrics, and whatever it adds."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from types import MappingProxyType
from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from headroom.daemon.http import Handler, Limits, Page, Question, Reply, Route, Site

_TEXT: Final = "text/plain; charset=utf-8"


class Health:
    """Named conditions that must all hold for the daemon to be ready, and its metrics registry.

    With `metrics_in_thread` the metrics page is written beside the event loop, for daemons that must answer while a page of
    many thousand lines is; `before_metrics` is then called on the loop first, for collectors to take what they need from it.
    The page is written once for all who ask while it is being written.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        metrics_in_thread: bool = False,
        before_metrics: Callable[[], None] = lambda: None,
    ) -> None:
        self.registry = registry
        self._metrics_in_thread, self._before_metrics = metrics_in_thread, before_metrics
        self._conditions: dict[str, tuple[bool, str]] = {}
        self._checks: dict[str, Callable[[], tuple[bool, str]]] = {}
        self._lock = asyncio.Lock()
        self._asked = self._written = self._waiting = 0
        self._page = b""
        self._rest_until = 0.0

    def set_ready(self, name: str, ready: bool, detail: str = "") -> None:
        """State whether the named part is ready; `detail` is shown to whoever asks."""
        self._conditions[name] = (ready, detail)

    def add_check(self, name: str, check: Callable[[], tuple[bool, str]]) -> None:
        """Have a condition looked at whenever readiness is asked for; it gives what `set_ready` takes."""
        self._checks[name] = check

    @property
    def ready(self) -> bool:
        """True when at least one condition was stated and all hold."""
        return (
            bool(self._conditions)
            and all(ready for ready, _ in self._conditions.values())
            and all(check()[0] for check in self._checks.values())
        )

    async def healthz(self, _: Question) -> Reply:
        """Whether the event loop turns: who gets this answer knows that it does."""
        return Reply(b"ok\n", _TEXT)

    async def readyz(self, _: Question) -> Reply:
        """Every condition, and whether all hold."""
        conditions = self._conditions | {name: check() for name, check in self._checks.items()}
        lines = [
            f"{'ok' if ready else 'not ready'} {name}{': ' + detail if detail else ''}"
            for name, (ready, detail) in sorted(conditions.items())
        ]
        text = "\n".join(lines or ["not ready: starting"]) + "\n"
        return Reply(text.encode(), _TEXT, 200 if self.ready else 503)

    async def metrics(self, _: Question) -> Reply:
        """The registry as Prometheus reads it."""
        self._asked += 1
        number = self._asked
        self._waiting += 1
        try:
            async with self._lock:
                # A writing that began after this caller asked serves him, too.
                if self._written < number:
                    await self._write_metrics()
                return Reply(self._page, CONTENT_TYPE_LATEST)
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._page = b""

    async def _write_metrics(self) -> None:
        clock = asyncio.get_running_loop().time
        # Whoever asks again and again gets at most a quarter of the time.
        await asyncio.sleep(max(self._rest_until - clock(), 0.0))
        serves, began = self._asked, clock()
        self._before_metrics()
        if self._metrics_in_thread:
            self._page = await asyncio.to_thread(generate_latest, self.registry)
        else:
            self._page = generate_latest(self.registry)
        self._written = serves
        self._rest_until = clock() + 3 * (clock() - began)

    def pages(self) -> dict[Route, Page]:
        """The three pages."""
        return {
            ("GET", "/healthz"): self.healthz,
            ("GET", "/readyz"): self.readyz,
            ("GET", "/metrics"): self.metrics,
        }

    def site(
        self,
        pages: Mapping[Route, Page] = MappingProxyType({}),
        handlers: Mapping[Route, Handler] = MappingProxyType({}),
        limits: Limits | None = None,
    ) -> Site:
        """The three pages and others."""
        return Site(self.pages() | dict(pages), handlers, limits)


@contextlib.asynccontextmanager
async def serving(
    app: web.Application | Site,
    host: str,
    port: int,
    *,
    shutdown_seconds: float = 1.0,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[int]:
    """Serve `app` while the block runs; yields the port (useful with port 0).

    Requests under way get `shutdown_seconds` to end. Raises OSError when the address is taken.
    """
    runner: web.BaseRunner
    if isinstance(app, Site):
        runner = web.ServerRunner(app.server(), handle_signals=False, shutdown_timeout=shutdown_seconds)
    else:
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=shutdown_seconds)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, ssl_context=tls).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
