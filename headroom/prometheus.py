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
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import requests
from prometheus_api_client import PrometheusApiClientException, PrometheusConnect
from urllib3.util.retry import Retry

from headroom.errors import HeadroomError

_STATUS: Final = re.compile(r"HTTP Status Code (\d{3}) \((.*)\)\s*$", re.DOTALL)
_BAD_QUERY: Final = (400, 422)
_DETAIL_LENGTH: Final = 300


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
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.timeout_seconds):
                return await loop.run_in_executor(self._threads, functools.partial(self._answer, promql))
        except TimeoutError as error:
            raise PrometheusTimeoutError(f"{self.url} did not answer within {self.timeout_seconds:g} s") from error

    def _answer(self, promql: str) -> list[Series]:
        """In a thread: ten thousand series take a second to read, in which the caller's event loop must go on."""
        result = self._ask(promql)
        try:
            series = [self._series(*entry) for entry in _entries(result)]
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise PrometheusAnswerError(f"{self.url} answered something that is no query result: {error}") from error
        return [one for one in series if one.points]

    def _ask(self, promql: str) -> Any:
        try:
            return self._client().custom_query(promql)
        except requests.exceptions.Timeout as error:
            raise PrometheusTimeoutError(f"{self.url} did not answer within {self.timeout_seconds:g} s") from error
        except requests.exceptions.JSONDecodeError as error:
            raise PrometheusAnswerError(f"{self.url} answered something that is not JSON") from error
        except requests.exceptions.RequestException as error:
            raise PrometheusUnreachableError(f"{self.url} cannot be reached: {error}") from error
        except PrometheusApiClientException as error:
            raise self._refused(promql, str(error)) from error
        except (LookupError, TypeError, ValueError) as error:
            raise PrometheusAnswerError(f"{self.url} answered without a result: {error!r}") from error

    def _client(self) -> PrometheusConnect:
        """The calling thread's own client: a requests session is not made for several threads."""
        client = getattr(self._local, "client", None)
        if client is None:
            # By default a refused connection is tried again for 6 s before it is told.
            client = PrometheusConnect(self.url, timeout=self.timeout_seconds, retry=Retry(total=0))
            self._local.client = client
        return client

    def _refused(self, promql: str, text: str) -> PrometheusError:
        match = _STATUS.search(text)
        status = int(match.group(1)) if match else 0
        detail = _detail(match.group(2) if match else text)
        if status in _BAD_QUERY:
            return PrometheusQueryError(f"{self.url} refuses {promql!r}: {detail}")
        return PrometheusAnswerError(f"{self.url} answered with status {status}: {detail}")

    def _series(self, labels: dict[str, str], pairs: Sequence[Sequence[Any]]) -> Series:
        points = [(float(at), float(value)) for at, value in pairs]
        finite = tuple([point for point in points if math.isfinite(point[1])])
        self.dropped_values += len(points) - len(finite)
        return Series(dict(labels), finite)

    def close(self) -> None:
        """End the threads; queries under way are given up."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _entries(result: Any) -> list[tuple[dict[str, str], list[Any]]]:
    """Labels and points of each series, whichever kind of result it is."""
    if isinstance(result, list) and len(result) == 2 and not isinstance(result[0], dict):
        return [({}, [result])]  # a scalar: time and value
    return [(entry["metric"], entry["values"] if "values" in entry else [entry["value"]]) for entry in result]


def _detail(body: str) -> str:
    """The server's own words out of the response's body, which the client's exception holds as a bytes literal."""
    text = body
    with contextlib.suppress(ValueError, SyntaxError, LookupError, TypeError, AttributeError):
        text = ast.literal_eval(body).decode(errors="replace")
        text = str(json.loads(text)["error"])
    return text[:_DETAIL_LENGTH]
