"""Queries to Prometheus and to what speaks like it: answers as series of numbers, and every way of getting none told apart.

An empty answer is an answer. No answer is a PrometheusError, whose kind says whether to wait (unreachable, too slow),
to mend the query, or to look at the server. Servers differ in what they take (docs/prometheus.md): what one refuses is
tried in another way, once, and remembered.

An instant query stamps values with the time of the query, however old they are: to know a value's age, ask for a range
(`metric[60s]`) and take the last point's own time.
"""

import asyncio
import contextlib
import os
import ssl
from collections.abc import Sequence
from typing import Any, Final, Self

import aiohttp
import msgspec

from headroom.prometheus import promql
from headroom.prometheus.access import Access, Address, hidden
from headroom.prometheus.answer import Answer, OddSeries, Series
from headroom.prometheus.errors import (
    PrometheusAnswerError,
    PrometheusError,
    PrometheusQueryError,
    PrometheusTimeoutError,
    PrometheusTooLongError,
    PrometheusUnreachableError,
)
from headroom.prometheus.settings import PrometheusSettings

__all__ = [
    "Answer",
    "OddSeries",
    "PrometheusAnswerError",
    "PrometheusError",
    "PrometheusQueryError",
    "PrometheusSource",
    "PrometheusTimeoutError",
    "PrometheusTooLongError",
    "PrometheusUnreachableError",
    "Series",
]

_BAD_QUERY: Final = (400, 422)
_NO_POST: Final = (403, 404, 405, 501)
_TOO_LONG: Final = (413, 414, 431)
_REDIRECTS: Final = (301, 302, 303, 307, 308)
_DETAIL_LENGTH: Final = 300
_SHOWN_QUERY: Final = 120
_LARGE: Final = 2**18  # bytes; more takes more than a millisecond to look through
_LONGEST_IN_ADDRESS: Final = 1500
"""Servers and proxies take address lines of 4 KiB and more; a query grows by up to three times when it is written into one."""


class PrometheusSource:
    """One Prometheus. `close` releases its connections.

    `url` is the server's, without a path of the API; `timeout_seconds` bounds a query as a whole. Raises PrometheusError
    for an address that cannot be one.
    """

    def __init__(
        self, url: str, timeout_seconds: float = 5.0, *, concurrency: int = 8, access: Access | None = None
    ) -> None:
        self._address = Address.of(url)
        self.url = self._address.shown
        """As it may be shown: without credentials."""
        self.timeout_seconds = timeout_seconds
        self.dropped_values = 0
        """Values so far that were no finite number."""
        self._access, self._concurrency = access or Access(), concurrency
        self._session: aiohttp.ClientSession | None = None
        self._context: ssl.SSLContext | None = None
        self._takes_post = True
        self._takes_name_patterns = True

    @classmethod
    def of(cls, settings: PrometheusSettings, *, concurrency: int = 8) -> Self:
        """From settings. Raises PrometheusError for settings or files that cannot be used."""
        return cls(
            settings.prometheus_url,
            settings.prometheus_timeout_seconds,
            concurrency=concurrency,
            access=Access.of(settings),
        )

    async def query(self, promql: str) -> list[Series]:
        """Answer an instant query, whose result may be an instant vector, a range vector or a scalar.

        Series without a single finite value are left out. Raises PrometheusError.
        """
        answer = await self.ask(promql)
        series = await asyncio.to_thread(list, answer)  # ten thousand of them take a while to read
        self.dropped_values += answer.dropped_values
        return series

    async def ask(self, promql: str, timeout_seconds: float | None = None) -> Answer:
        """As `query`, for large answers: the series are read while the caller iterates, best in a thread."""
        limit = self.timeout_seconds if timeout_seconds is None else timeout_seconds
        try:
            async with asyncio.timeout(limit):
                bodies = await self._bodies(promql)
                if sum(map(len, bodies)) < _LARGE:
                    return Answer(bodies, self.url)
                return await asyncio.to_thread(Answer, bodies, self.url)
        except TimeoutError as error:
            raise PrometheusTimeoutError(f"{self.url} did not answer within {limit:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise PrometheusUnreachableError(f"{self.url} cannot be reached: {_cause(error)}") from error

    async def _bodies(self, query: str) -> Sequence[bytes]:
        try:
            whole = promql.with_matchers(query, self._access.matchers)
        except promql.PromqlError as error:
            raise PrometheusQueryError(f"{self.url} cannot be asked {_short(query)}: {error}", str(error)) from error
        apart = promql.names_apart(whole)
        if self._takes_name_patterns or not apart:
            try:
                return [await self._body(whole)]
            except PrometheusQueryError as error:
                if not apart or "__name__" not in error.reason:
                    raise
                self._takes_name_patterns = False  # Google's Managed Service
        return await asyncio.gather(*(self._body(one) for one in apart))

    async def _body(self, query: str) -> bytes:
        """The body of a good answer. Raises PrometheusError, aiohttp.ClientError or OSError."""
        if len(query) <= _LONGEST_IN_ADDRESS or not self._takes_post:
            status, body = await self._send("GET", query)
        else:
            status, body = await self._send("POST", query)
            if status in _NO_POST:  # a proxy that lets read only: OpenShift's wants the right to `create`
                second, answered = await self._send("GET", query)
                if second == 200 or second in (*_BAD_QUERY, *_TOO_LONG):
                    self._takes_post, status, body = False, second, answered
        if status != 200:
            raise self._refused(query, status, body)
        return body

    async def _send(self, method: str, query: str) -> tuple[int, bytes]:
        address = self._address
        headers = self._headers()
        options: dict[str, Any] = {"headers": headers}
        if method == "POST":
            options["data"] = {"query": query}
            options["params"] = address.url.query
        else:
            options["params"] = [*address.url.query.items(), ("query", query)]
        # Credentials must not follow to where a server points.
        options["allow_redirects"] = not headers and not self._access.secret
        url = address.url.with_query(None) / "api/v1/query"
        async with self._connected().request(method, url, **options) as response:
            body = await response.read()
            if response.status in _REDIRECTS:
                body = f"it points to {response.headers.get('Location', 'elsewhere')}".encode()
            return response.status, body

    def _headers(self) -> dict[str, str]:
        headers = self._access.headers()
        if self._address.authorization:
            headers.setdefault("Authorization", self._address.authorization)
        return headers

    def _connected(self) -> aiohttp.ClientSession:
        """The session; a new one when the files behind its TLS have changed."""
        context = self._access.context()
        if self._session is None or context is not self._context:
            if self._session is not None:
                old = self._session  # calls under way on it go on
                asyncio.get_running_loop().call_later(self.timeout_seconds, lambda: asyncio.ensure_future(old.close()))
            self._context = context
            tls = context or self._usual_context()
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._concurrency, ssl=tls or True),
                timeout=aiohttp.ClientTimeout(total=None),
                trust_env=True,
            )
        return self._session

    def _usual_context(self) -> ssl.SSLContext | None:
        bundle = os.environ.get(
            "REQUESTS_CA_BUNDLE"
        )  # heard by earlier versions, and usual in images with a company's CA
        return ssl.create_default_context(cafile=bundle) if bundle and self.url.startswith("https:") else None

    def _refused(self, query: str, status: int, body: bytes) -> PrometheusError:
        reason = hidden(_detail(body), self._headers().values())
        if status in _BAD_QUERY:
            return PrometheusQueryError(f"{reason} ({self.url} refuses {_short(query)})", reason)
        if status in _TOO_LONG:
            return PrometheusTooLongError(
                f"{self.url} does not take a query of {len(query)} characters: {reason}", reason
            )
        return PrometheusAnswerError(f"{self.url} answered with status {status}: {reason}")

    async def close(self) -> None:
        """Release the connections; queries under way are given up."""
        if self._session is not None:
            await self._session.close()
            self._session = None


def _short(query: str) -> str:
    text = " ".join(query.split())
    return repr(text if len(text) <= _SHOWN_QUERY else f"{text[:_SHOWN_QUERY]} ...")


def _cause(error: BaseException) -> str:
    """What went wrong on the way, in words."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        inner = error.certificate_error
        words = getattr(inner, "verify_message", None) or str(inner)
        return f"its certificate is not trusted: {words} (prometheus_ca_file names the certificates to trust)"
    if isinstance(error, aiohttp.ClientConnectorError):
        inner = error.os_error
        return (os.strerror(inner.errno) if inner.errno and inner.errno > 0 else "") or inner.strerror or str(error)
    return (str(error) or type(error).__name__)[:_DETAIL_LENGTH]


class _Said(msgspec.Struct):
    error: str = ""


def _detail(body: bytes) -> str:
    """The server's own words."""
    with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError):
        said = msgspec.json.decode(body, type=_Said).error
        if said:
            return said[:_DETAIL_LENGTH]
    return body.decode(errors="replace")[:_DETAIL_LENGTH]
