"""A small proxy before a Prometheus, which behaves as the platforms do that people run.

`async with Platform(upstream.url, "thanos").serve() as platform:` listens on `platform.url`. What the proxy does is what each
platform is known for: what it asks of a caller, what it refuses, how it says that an answer is not the whole one.
"""

import base64
import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web

FORBIDDEN = (
    "Forbidden (user=system:serviceaccount:headroom-system:headroom-autoscaler, verb=create, resource=prometheuses,"
    " subresource=api)"
)
UNSUPPORTED = (
    'invalid parameter "query": substitute queries failed: convert vector selector failed: =~ is an unsupported matchtype'
    " for the __name__ label: invalid argument"
)
PARTIAL = "receive store 10.0.0.9:10901: rpc error: code = Unavailable desc = connection refused"


def basic(user: str, password: str) -> str:
    """The header that a user and a password make."""
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


@dataclass
class Platform:
    """One proxy. `kind`: gmp, mimir, openshift, thanos, victoriametrics, pointing (elsewhere), or plain."""

    upstream: str
    kind: str = "plain"
    secret: str = "s3cret-token"
    """Bearer token that openshift wants; basic-auth password that `plain` wants when `user` is given."""
    user: str = ""
    whole: bool = True
    """Thanos and VictoriaMetrics: false while a store is down, whose pods' series are missing."""
    missing: str = "-1"
    """Series whose pod ends so are those of the store that is down."""
    notes: list[str] = field(default_factory=list)
    """Remarks on the expression that come with every answer."""
    longest: int = 100_000
    """Of an address line."""
    url: str = ""
    calls: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    """(method, query, headers) of every call."""
    paths: list[str] = field(default_factory=list)
    """Path and query part of every call."""

    async def _handle(self, request: web.Request) -> web.Response:
        form = {**request.query, **(await request.post())}
        query = str(form.get("query", ""))
        self.calls.append((request.method, query, dict(request.headers)))
        self.paths.append(request.raw_path)
        refused = self._refusal(request, query)
        if refused is not None:
            return refused
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{self.upstream}/api/v1/query", data={"query": query}) as answer,
        ):
            body: dict[str, Any] = await answer.json()
            if answer.status == 200:
                self._spoil(body)
            return web.json_response(body, status=answer.status)

    def _refusal(self, request: web.Request, query: str) -> web.Response | None:
        headers = request.headers
        if self.kind == "pointing":
            return web.Response(status=307, headers={"Location": f"{self.upstream}{request.path_qs}"})
        if request.method == "GET" and len(request.raw_path) > self.longest:
            return web.Response(status=414, text="URI Too Long")
        if self.kind == "openshift":
            if headers.get("Authorization") != f"Bearer {self.secret}":
                # A proxy may repeat what it was sent.
                return web.Response(status=401, text=f"Unauthorized: {headers.get('Authorization', '')}")
            if request.method == "POST":
                return web.Response(status=403, text=FORBIDDEN)
        if self.kind == "mimir" and not headers.get("X-Scope-OrgID"):
            return web.Response(status=401, text="no org id")
        if self.kind == "gmp" and "__name__=~" in query:
            body = {"status": "error", "errorType": "bad_data", "error": UNSUPPORTED}
            return web.json_response(body, status=400)
        if self.user and headers.get("Authorization") != basic(self.user, self.secret):
            return web.Response(status=401, text=f"Unauthorized: {headers.get('Authorization', '')}")
        return None

    def _spoil(self, body: dict[str, Any]) -> None:
        if self.notes:
            body["warnings"] = list(self.notes)
        if self.kind == "victoriametrics":
            body["isPartial"] = not self.whole
        if self.whole or self.kind not in ("thanos", "victoriametrics"):
            return
        if self.kind == "thanos":
            body["warnings"] = [*body.get("warnings", ()), PARTIAL]
        found = body["data"]["result"]
        body["data"]["result"] = [one for one in found if self.missing not in json.dumps(one)]

    @contextlib.asynccontextmanager
    async def serve(self, tls: ssl.SSLContext | None = None) -> AsyncIterator["Platform"]:
        """Listen on a free port of the loopback until the block ends."""
        prefix = "/prometheus" if self.kind == "mimir" else ""
        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", f"{prefix}/api/v1/query", self._handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{runner.addresses[0][1]}{prefix}"
        try:
            yield self
        finally:
            await runner.cleanup()
