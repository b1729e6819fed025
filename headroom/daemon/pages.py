"""The pages every daemon serves: /healthz, /readyz, /metrics, and whatever it adds."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest


class Health:
    """Named conditions that must all hold for the daemon to be ready, and its metrics registry.

    With `metrics_in_thread` the metrics page is written beside the event loop, for daemons that must answer while a page of
    many thousand lines is; their collectors must bear that.
    """

    def __init__(self, registry: CollectorRegistry, *, metrics_in_thread: bool = False) -> None:
        self.registry = registry
        self._metrics_in_thread = metrics_in_thread
        self._conditions: dict[str, tuple[bool, str]] = {}

    def set_ready(self, name: str, ready: bool, detail: str = "") -> None:
        """State whether the named part is ready; `detail` is shown to whoever asks."""
        self._conditions[name] = (ready, detail)

    @property
    def ready(self) -> bool:
        """True when at least one condition was stated and all hold."""
        return bool(self._conditions) and all(ready for ready, _ in self._conditions.values())

    def routes(self) -> list[web.RouteDef]:
        """The three pages."""
        return [
            web.get("/healthz", self._healthz),
            web.get("/readyz", self._readyz),
            web.get("/metrics", self._metrics),
        ]

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        lines = [
            f"{'ok' if ready else 'not ready'} {name}{': ' + detail if detail else ''}"
            for name, (ready, detail) in sorted(self._conditions.items())
        ]
        return web.Response(text="\n".join(lines or ["not ready: starting"]) + "\n", status=200 if self.ready else 503)

    async def _metrics(self, _: web.Request) -> web.Response:
        if self._metrics_in_thread:
            body = await asyncio.to_thread(generate_latest, self.registry)
        else:
            body = generate_latest(self.registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    def app(
        self, extra_routes: Iterable[web.AbstractRouteDef] = (), *, client_max_size: int = 2**20
    ) -> web.Application:
        """An application with the three pages and `extra_routes`."""
        app = web.Application(client_max_size=client_max_size)
        app.add_routes([*self.routes(), *extra_routes])
        return app


@contextlib.asynccontextmanager
async def serving(app: web.Application, host: str, port: int, *, shutdown_seconds: float = 1.0) -> AsyncIterator[int]:
    """Serve `app` while the block runs; yields the port (useful with port 0).

    Requests under way get `shutdown_seconds` to end. Raises OSError when the address is taken.
    """
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=shutdown_seconds)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
