"""Asks the queries that people wrote, many in one, so that one that is refused, slow or huge fails its own object alone.

Queries are asked in a few batches. A batch that is refused is halved until the refused queries are found; one that is too slow, too
large or answered with an error is taken apart into small ones and then into single ones, at once, as long as Prometheus answers
anything. What was found is remembered: refused queries are kept out for a while, slow ones are asked by themselves.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, NamedTuple

from autoscaler.observation import remarks
from autoscaler.observation.queries import TAG, Custom, combine
from autoscaler.observation.series import Sample
from headroom.daemon.logs import get_logger
from headroom.errors import HeadroomError
from headroom.prometheus.errors import (
    PrometheusAnswerError,
    PrometheusError,
    PrometheusQueryError,
    PrometheusTimeoutError,
    PrometheusTooLongError,
)
from headroom.prometheus.series import Answer, Source, newest

_RETRY_SECONDS: Final = 300.0
_BATCH_SHARE: Final = 0.4
"""Of the time for a query, given to a batch: what is left is for its parts, and a tick is not held up for long."""
_SLOW_SHARE: Final = 0.2
"""A query that takes this share of the time by itself is asked by itself."""
_PARTS: Final = 8
_SERIES_EACH: Final = 8
"""Of a batch's answer, for each of its queries: a number each is what they should have."""
_SEVERAL: Final = "the query answers with more than one series; aggregate it"

Pair = tuple[str, Custom]
"""Tag and query."""


class TooManySeriesError(PrometheusAnswerError):
    """A query that answers with a whole metric."""


@dataclass(slots=True)
class CustomAnswers:
    """What the queries came to, by target and signal."""

    found: dict[tuple[str, str], Sample | str] = field(default_factory=dict)
    """The number, or what was wrong with the answer; absent when the answer was empty."""
    partial: dict[tuple[str, str], str] = field(default_factory=dict)
    """Numbers that may be too low, and why."""
    remarks: dict[tuple[str, str], str] = field(default_factory=dict)
    """What Prometheus remarks on an expression."""
    refused: dict[tuple[str, str], str] = field(default_factory=dict)
    """What Prometheus says of an expression that it cannot read, with the place in it."""


class _Refused(NamedTuple):
    since: float
    text: str
    reason: str


class CustomQueries:
    """`timeout_seconds` bounds one query; `wall_clock` is what refusals are remembered by."""

    def __init__(self, source: Source, timeout_seconds: float, wall_clock: Callable[[], float]) -> None:
        self._source, self._timeout, self._wall_clock = source, timeout_seconds, wall_clock
        self._refused: dict[Custom, _Refused] = {}
        self._slow: set[Custom] = set()
        self._longest: int | None = None
        """Characters that the server takes in one query, once it has refused one for its length."""
        self.asked = 0
        self._log = get_logger(__name__)

    async def ask(self, groups: Sequence[Sequence[Pair]], alive: Callable[[], Awaitable[bool]]) -> CustomAnswers:
        """Ask all; `alive` tells whether Prometheus answers anything, before a batch without an answer is taken apart."""
        now = self._wall_clock()
        pairs = [pair for group in groups for pair in group]
        wanted = {custom for _, custom in pairs}
        self._refused = {custom: known for custom, known in self._refused.items() if custom in wanted}
        self._slow &= wanted
        turn = _Turn(self, CustomAnswers(), alive, now)
        batches = [[pair for pair in group if turn.joins(pair[1])] for group in groups]
        alone = [pair for pair in pairs if pair[1] in self._slow]
        await asyncio.gather(
            *(turn.batch(batch) for group in batches for batch in self._fitting(group)),
            *(turn.single(pair) for pair in alone),
        )
        for _, custom in pairs:
            if known := self._refused.get(custom):
                key = custom.target, custom.signal
                turn.answers.found[key] = known.text
                if "parse error" in known.reason:
                    turn.answers.refused[key] = known.reason
        return turn.answers

    def _fitting(self, pairs: Sequence[Pair]) -> Iterable[Sequence[Pair]]:
        """The batch in parts that the server takes by their length."""
        if not pairs:
            return
        if self._longest is None or len(pairs) == 1 or len(combine(pairs)) <= self._longest:
            yield pairs
            return
        middle = len(pairs) // 2
        yield from self._fitting(pairs[:middle])
        yield from self._fitting(pairs[middle:])


class _Turn:
    """One round of asking."""

    def __init__(
        self, queries: CustomQueries, answers: CustomAnswers, alive: Callable[[], Awaitable[bool]], now: float
    ) -> None:
        self._queries, self.answers, self._alive, self._now = queries, answers, alive, now

    def joins(self, custom: Custom) -> bool:
        """Whether the query is asked among others."""
        refused = self._queries._refused.get(custom)
        put_off = refused is not None and 0 <= self._now - refused.since < _RETRY_SECONDS
        return not put_off and custom not in self._queries._slow

    async def batch(self, pairs: Sequence[Pair]) -> None:
        """Ask many in one."""
        if len(pairs) == 1:
            await self.single(pairs[0])
            return
        queries, query = self._queries, combine(pairs)
        try:
            await self._ask(pairs, query, queries._timeout * _BATCH_SHARE)
        except PrometheusTooLongError:
            queries._longest = min(queries._longest or len(query), int(len(query) * 0.7))
            await asyncio.gather(*(self.batch(part) for part in queries._fitting(pairs)))
        except PrometheusQueryError:
            middle = len(pairs) // 2
            await self.batch(pairs[:middle])
            await self.batch(pairs[middle:])
        except (PrometheusTimeoutError, PrometheusAnswerError) as error:
            await self._take_apart(pairs, error)
        except HeadroomError as error:
            self._fail(pairs, str(error))

    async def _take_apart(self, pairs: Sequence[Pair], error: PrometheusError) -> None:
        if not await self._alive():
            self._fail(pairs, str(error))
            return
        size = -(-len(pairs) // _PARTS)
        await asyncio.gather(*(self.batch(pairs[at : at + size]) for at in range(0, len(pairs), size)))

    async def single(self, pair: Pair) -> None:
        """Ask one by itself."""
        queries, custom = self._queries, pair[1]
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            await self._ask([pair], combine([pair]), queries._timeout)
        except PrometheusQueryError as error:
            reason = remarks.moved_up(error.reason)
            queries._refused[custom] = _Refused(self._now, f"{reason} (refused: {_short(custom.query)})", reason)
            queries._log.warning("query_refused", target=custom.target, signal=custom.signal, error=reason)
        except PrometheusTimeoutError as error:
            queries._slow.add(custom)
            self._fail([pair], str(error))
        except HeadroomError as error:
            self._fail([pair], str(error))
        else:
            slow = clock() - began > queries._timeout * _SLOW_SHARE
            (queries._slow.add if slow else queries._slow.discard)(custom)

    async def _ask(self, pairs: Sequence[Pair], query: str, limit_seconds: float) -> None:
        """Raises PrometheusError and leaves nothing of the answer."""
        queries = self._queries
        queries.asked += 1
        try:
            async with asyncio.timeout(limit_seconds):
                answer = await queries._source.ask(query)
        except TimeoutError as error:
            raise PrometheusTimeoutError(f"no answer within {limit_seconds:g} s") from error
        self._take(pairs, answer)
        for _, custom in pairs:
            queries._refused.pop(custom, None)

    def _take(self, pairs: Sequence[Pair], answer: Answer) -> None:
        keys = {tag: (custom.target, custom.signal) for tag, custom in pairs}
        most = _SERIES_EACH * len(pairs)
        series = list(islice(answer, most + 1))
        if len(series) > most and len(pairs) > 1:
            raise TooManySeriesError("a query of the batch answers with a whole metric")
        found: dict[tuple[str, str], Sample | str] = {}
        for one in series:
            key, point = keys.get(one.labels.get(TAG, "")), newest(one.points)
            if key is not None and point is not None:
                found[key] = Sample(*point) if key not in found else _SEVERAL
        for odd in answer.odd:
            key = keys.get(odd.labels.get(TAG, ""))
            if key is not None:
                found[key] = f"the query answers with {odd.held}, which is no number" if key not in found else _SEVERAL
        self.answers.found.update(found)
        if words := "; ".join(answer.warnings):
            self.answers.partial.update(dict.fromkeys(keys.values(), words))
        for at, remark in remarks.placed(answer.notes, [custom.query for _, custom in pairs]):
            custom = pairs[at][1]
            self.answers.remarks[custom.target, custom.signal] = remark

    def _fail(self, pairs: Sequence[Pair], text: str) -> None:
        self.answers.found.update({(custom.target, custom.signal): text for _, custom in pairs})


def _short(query: str) -> str:
    text = " ".join(query.split())
    return text if len(text) <= 120 else f"{text[:120]} ..."
