"""Queries to Prometheus: answers as series of numbers, and every way of getting none told apart.

An empty answer is an answer. No answer is a PrometheusError, whose kind says whether to wait (unreachable, too slow),
to mend the query, or to look at the server. The client blocks, so it runs in threads of its own.

An instant query stamps values with the time of the query, however old they are: to know a value's age, ask for a range
(`metric[60s]`) and take the last point's own time.
"""

import ast
import asyncio
import contextlib
import functools
import json
import math
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
import requests
from prometheus_api_client import PrometheusApiClientException, PrometheusConnect
from urllib3.util.retry import Retry

from headroom.errors import HeadroomError

T = TypeVar("T")

_STATUS: Final = re.compile(r"HTTP Status Code (\d{3}) \((.*)\)\s*$", re.DOTALL)
_BAD_QUERY: Final = (400, 422)
_DETAIL_LENGTH: Final = 300
_LONGEST_IN_ADDRESS: Final = 1500


class PrometheusError(HeadroomError):
    """Prometheus gave no usable answer."""


class PrometheusUnreachableError(PrometheusError):
    """Nobody answers at the address."""


class PrometheusTimeoutError(PrometheusError):
    """The answer did not come in time."""


class PrometheusQueryError(PrometheusError):
    """Prometheus refuses the query; asking again will not help."""


class PrometheusAnswerError(PrometheusError):
    """The server answers, but not as Prometheus does when it is well."""


@dataclass(frozen=True, slots=True)
class Series:
    """One series of an answer."""

    labels: dict[str, str]
    points: tuple[tuple[float, float], ...]
    """(Unix seconds, value), oldest first, at least one; finite values only."""


class _Found(msgspec.Struct):
    """One series as it is sent: a range vector has `values`, an instant vector `value`."""

    metric: dict[str, str]
    value: msgspec.Raw = msgspec.Raw(b"")
    values: msgspec.Raw = msgspec.Raw(b"")


_FOUND: Final = msgspec.json.Decoder(_Found)
_ENTRIES: Final = msgspec.json.Decoder(list[msgspec.Raw])
# Numbers come as text. `+Inf`, which this decoder does not know, is left to the other one.
_POINTS: Final = msgspec.json.Decoder(tuple[tuple[float, float], ...], strict=False)
_SPELT_POINTS: Final = msgspec.json.Decoder(list[tuple[float, str]])
_POINT: Final = msgspec.json.Decoder(tuple[float, str])


class Answer:
    """The series of an answer, read one at a time while iterating, so that of thousands only the text is held.

    Series without a single finite value are left out. Iterating raises PrometheusAnswerError for what is no query result.
    """

    def __init__(self, result: msgspec.Raw, url: str) -> None:
        self._result, self._url = result, url
        self.dropped_values = 0
        """Values so far that were no finite number."""

    def __iter__(self) -> Iterator[Series]:
        try:
            entries = _ENTRIES.decode(self._result)
            if len(entries) == 2 and not bytes(entries[0]).lstrip().startswith(b"{"):
                entries = [msgspec.Raw(b'{"metric":{},"value":' + bytes(self._result) + b"}")]  # a scalar
            for entry in entries:
                series = self._series(_FOUND.decode(entry))
                if series.points:
                    yield series
        except (msgspec.MsgspecError, ValueError) as error:
            raise PrometheusAnswerError(f"{self._url} answered something that is no query result: {error}") from error

    def _series(self, found: _Found) -> Series:
        if found.values:
            points = _points(found.values)
        else:
            at, value = _POINT.decode(found.value)
            points = ((at, float(value)),)
        finite = tuple([point for point in points if math.isfinite(point[1])])
        self.dropped_values += len(points) - len(finite)
        return Series(found.metric, finite)


def _points(raw: msgspec.Raw) -> tuple[tuple[float, float], ...]:
    try:
        return _POINTS.decode(raw)
    except msgspec.ValidationError:
        return tuple([(at, float(value)) for at, value in _SPELT_POINTS.decode(raw)])


class _Data(msgspec.Struct):
    result: msgspec.Raw


class _Body(msgspec.Struct):
    data: _Data


_BODY: Final = msgspec.json.Decoder(_Body)


class _Reply(NamedTuple):
    """What the client reads of a response; `json` leaves the result as text."""

    status_code: int
    content: bytes

    def json(self) -> Any:
        return {"data": {"result": _BODY.decode(self.content).data.result}}


class _Session(requests.Session):
    """Sends long queries in the body of a POST: a batch of them outgrows the address lines that servers and proxies take."""

    def request(self, method: str, url: str, params: Any = None, **rest: Any) -> Any:  # type: ignore[override]
        if len(params["query"]) > _LONGEST_IN_ADDRESS:
            response = super().request("POST", url, data=params, **rest)
        else:
            response = super().request(method, url, params=params, **rest)
        return _Reply(response.status_code, response.content)


class PrometheusSource:
    """One Prometheus. `close` ends its threads.

    `url` is the server's, without a path of the API; `timeout_seconds` bounds a query as a whole. Raises PrometheusError
    for an address that cannot be one.
    """

    def __init__(self, url: str, timeout_seconds: float = 5.0, *, concurrency: int = 4) -> None:
        if not re.match(r"https?://[^/\s]+", url):
            raise PrometheusError(f"{url!r} is not the address of a Prometheus, such as http://prometheus:9090")
        self.url = url.rstrip("/")
        self.timeout_seconds = timeout_seconds
        self.dropped_values = 0
        """Values so far that were no finite number."""
        self._threads = ThreadPoolExecutor(concurrency, thread_name_prefix="prometheus")
        self._local = threading.local()

    async def query(self, promql: str) -> list[Series]:
        """Answer an instant query, whose result may be an instant vector, a range vector or a scalar.

        Series without a single finite value are left out. Raises PrometheusError.
        """

        def read() -> list[Series]:
            answer = self._ask(promql)
            series = list(answer)
            self.dropped_values += answer.dropped_values
            return series

        return await self._in_time(read)

    async def ask(self, promql: str) -> Answer:
        """As `query`, for large answers: the series are read while the caller iterates, best in a thread."""
        return await self._in_time(functools.partial(self._ask, promql))

    async def _in_time(self, call: Callable[[], T]) -> T:
        """In a thread: the client blocks, and ten thousand series take a while to read."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.timeout_seconds):
                return await loop.run_in_executor(self._threads, call)
        except TimeoutError as error:
            raise PrometheusTimeoutError(f"{self.url} did not answer within {self.timeout_seconds:g} s") from error

    def _ask(self, promql: str) -> Answer:
        try:
            return Answer(self._client().custom_query(promql), self.url)
        except requests.exceptions.Timeout as error:
            raise PrometheusTimeoutError(f"{self.url} did not answer within {self.timeout_seconds:g} s") from error
        except requests.exceptions.RequestException as error:
            raise PrometheusUnreachableError(f"{self.url} cannot be reached: {_cause(error)}") from error
        except PrometheusApiClientException as error:
            raise self._refused(promql, str(error)) from error
        except msgspec.ValidationError as error:
            raise PrometheusAnswerError(f"{self.url} answered without a result: {error}") from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise PrometheusAnswerError(f"{self.url} answered something that is not JSON") from error

    def _client(self) -> PrometheusConnect:
        """The calling thread's own client: a requests session is not made for several threads."""
        client = getattr(self._local, "client", None)
        if client is None:
            # By default a refused connection is tried again for 6 s before it is told.
            client = PrometheusConnect(self.url, timeout=self.timeout_seconds, retry=Retry(total=0), session=_Session())
            self._local.client = client
        return client

    def _refused(self, promql: str, text: str) -> PrometheusError:
        match = _STATUS.search(text)
        status = int(match.group(1)) if match else 0
        detail = _detail(match.group(2) if match else text)
        if status in _BAD_QUERY:
            return PrometheusQueryError(f"{self.url} refuses {promql!r}: {detail}")
        return PrometheusAnswerError(f"{self.url} answered with status {status}: {detail}")

    def close(self) -> None:
        """End the threads; queries under way are given up."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _cause(error: requests.exceptions.RequestException) -> str:
    """What went wrong on the way, without the address line, which holds the whole query."""
    reason = getattr(error.args[0], "reason", None) if error.args else None
    return str(error if reason is None else reason).split(": ", 1)[-1][:_DETAIL_LENGTH]


def _detail(body: str) -> str:
    """The server's own words out of the response's body, which the client's exception holds as a bytes literal."""
    text = body
    with contextlib.suppress(ValueError, SyntaxError, LookupError, TypeError, AttributeError):
        text = ast.literal_eval(body).decode(errors="replace")
        text = str(json.loads(text)["error"])
    return text[:_DETAIL_LENGTH]
