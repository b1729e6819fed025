"""An extender that says what fits, and a bench without load."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from aiohttp import web

from tests.fakes.autoscaler_bench import Bench


def idle(bench: Bench) -> None:
    for pod in bench.loads:
        bench.loads[pod] = 0.0


@contextlib.asynccontextmanager
async def serving_fit(handler: Callable[[web.Request], Awaitable[web.Response]]) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/v1/fit", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()
