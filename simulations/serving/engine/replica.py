"""One model server with continuous batching, in virtual time.

An iteration with `b` sequences in the batch, `c` prompt tokens of a prefill chunk and `k` tokens in the KV cache takes

    base + per_sequence * b + per_prompt_token * c + per_kv_token * k        seconds.

A sequence whose prompt is complete yields one token per iteration. Between two changes of the batch the iterations follow
an arithmetic progression (each adds `b` tokens to the cache), so a whole run of them is advanced in closed form: the cost of
a simulation grows with the number of requests, not of tokens.

Admission is first come first served: a request enters while a slot is free and its prompt and output fit the KV room that
nobody else was promised, so nothing is ever preempted.
"""

import heapq
import math
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

BLOCK_TOKENS = 512
"""Prompt tokens per hash of a request's prefix."""


class Request:
    """One inference request and what became of it. Times in seconds, NaN until they happen."""

    __slots__ = ("arrival", "blocks", "cached_tokens", "finished", "first_token", "output_tokens", "prompt_tokens")

    def __init__(self, arrival: float, prompt_tokens: int, output_tokens: int, blocks: Sequence[int] = ()) -> None:
        self.arrival = arrival
        self.prompt_tokens = prompt_tokens
        self.output_tokens = output_tokens
        self.blocks = blocks
        """Hashes of the prompt's leading blocks; equal hashes mean a prefix that a replica may still have cached."""
        self.cached_tokens = 0
        self.first_token = math.nan
        self.finished = math.nan

    @property
    def ttft_seconds(self) -> float:
        """Time to first token."""
        return self.first_token - self.arrival

    @property
    def itl_seconds(self) -> float:
        """Mean time between output tokens; 0 for an output of one token."""
        gaps = self.output_tokens - 1
        return (self.finished - self.first_token) / gaps if gaps else 0.0


class Prefill:
    """An admitted request and the prompt tokens it still lacks."""

    __slots__ = ("lacking", "request")

    def __init__(self, request: Request, lacking: int) -> None:
        self.request = request
        self.lacking = lacking


@dataclass(frozen=True, slots=True)
class Speed:
    """What a replica can do; see the module's formula. Times in seconds, memory in tokens."""

    base_seconds: float
    per_sequence_seconds: float
    per_prompt_token_seconds: float
    per_kv_token_seconds: float
    slots: int
    """Most sequences in the batch."""
    kv_tokens: int
    """Room of the KV cache."""
    chunk_tokens: int
    """Most prompt tokens in one iteration."""

    def iteration_seconds(self, batch: float, chunk_tokens: float, kv_tokens: float) -> float:
        """Length of one iteration."""
        return (
            self.base_seconds
            + self.per_sequence_seconds * batch
            + self.per_prompt_token_seconds * chunk_tokens
            + self.per_kv_token_seconds * kv_tokens
        )


class Replica:
    """The state of one server. The owner calls `arrive`, and `advance` at each time that either of them returned.

    Counters only grow: `busy_seconds`, `prompt_tokens_done` (computed, without cached ones), `cached_tokens_done`,
    `output_tokens_done`, `finished_count`, `iterations_done`, `gap_seconds` (sum of all gaps between output tokens). They are
    exact at the ends of runs of iterations; `read` interpolates between.
    """

    __slots__ = (
        "_cache", "_chunk", "_end", "_running", "_sequence", "_start", "_step", "_steps", "busy_seconds",
        "cached_tokens_done", "finished_count", "gap_seconds", "iterations_done", "kv", "output_tokens_done", "prefilling",
        "prompt_tokens_done", "reserved", "speed", "waiting",
    )  # fmt: skip

    def __init__(self, speed: Speed) -> None:
        self.speed = speed
        self.waiting: deque[Request] = deque()
        self.prefilling: deque[Prefill] = deque()
        self._running: list[tuple[int, int, Request]] = []
        """Heap of (decode step at which it ends, order, request)."""
        self._sequence = 0
        self._step = 0
        self._steps = 0
        """Decode steps of the run under way; 0 when idle or when nothing decodes."""
        self._chunk = 0
        self._start = 0.0
        self._end = math.inf
        self.kv = 0
        self.reserved = 0
        self._cache: OrderedDict[int, None] = OrderedDict()
        self.busy_seconds = 0.0
        self.prompt_tokens_done = 0
        self.cached_tokens_done = 0
        self.output_tokens_done = 0
        self.iterations_done = 0
        self.gap_seconds = 0.0
        self.finished_count = 0

    @property
    def load(self) -> int:
        """Requests inside: waiting and in the batch."""
        return len(self.waiting) + len(self.prefilling) + len(self._running)

    @property
    def running_count(self) -> int:
        """Requests in the batch, prefill included."""
        return len(self.prefilling) + len(self._running)

    @property
    def next_event(self) -> float:
        """When `advance` is due; infinity while idle."""
        return self._end

    def arrive(self, request: Request, now: float) -> float | None:
        """Take a request. Returns a new time for `advance` when the one given before no longer holds."""
        self.waiting.append(request)
        if self._end == math.inf:
            self._begin(now)
            return self._end
        if self._chunk == 0 and self._steps > 1 and len(self.waiting) == 1 and self._admissible(request):
            return self._cut(now)
        return None

    def advance(self, now: float) -> tuple[list[Request], list[Request]]:
        """Finish the run that ends at `now` and begin the next; returns (got their first token, finished)."""
        first: list[Request] = []
        done: list[Request] = []
        running, steps, chunk = self._running, self._steps, self._chunk
        self.busy_seconds += now - self._start
        self.iterations_done += steps
        batch = len(running)
        if batch:
            self.gap_seconds += batch * (now - self._start)
            self._step += steps
            self.kv += batch * steps
            self.output_tokens_done += batch * steps
            while running and running[0][0] <= self._step:
                self._finish(heapq.heappop(running)[2], now, done)
        if chunk:
            self._prefill(chunk, now, first, done)
        self._begin(now)
        return first, done

    def _finish(self, request: Request, now: float, done: list[Request]) -> None:
        request.finished = now
        self.kv -= request.prompt_tokens + request.output_tokens - 1
        self.reserved -= request.prompt_tokens + request.output_tokens
        self.finished_count += 1
        done.append(request)

    def _prefill(self, chunk: int, now: float, first: list[Request], done: list[Request]) -> None:
        self.prompt_tokens_done += chunk
        while chunk > 0:
            entry = self.prefilling[0]
            request, lacking = entry.request, entry.lacking
            if lacking > chunk:
                entry.lacking = lacking - chunk
                self.kv += chunk
                return
            chunk -= lacking
            self.kv += lacking
            self.prefilling.popleft()
            request.first_token = now
            self.output_tokens_done += 1
            first.append(request)
            if request.blocks:
                self._remember(request.blocks)
            if request.output_tokens == 1:
                self._finish(request, now, done)
            else:
                self._sequence += 1
                heapq.heappush(self._running, (self._step + request.output_tokens - 1, self._sequence, request))

    def _admissible(self, request: Request) -> bool:
        return (
            len(self.prefilling) + len(self._running) < self.speed.slots
            and self.reserved + request.prompt_tokens + request.output_tokens <= self.speed.kv_tokens
        )

    def _begin(self, now: float) -> None:
        """Admit what fits and start the next run of iterations."""
        waiting, prefilling, speed = self.waiting, self.prefilling, self.speed
        while waiting and self._admissible(waiting[0]):
            request = waiting.popleft()
            self.reserved += request.prompt_tokens + request.output_tokens
            lacking = request.prompt_tokens
            if request.blocks:
                request.cached_tokens = cached = self._cached_tokens(request)
                self.cached_tokens_done += cached
                self.kv += cached
                lacking -= cached
            prefilling.append(Prefill(request, lacking))
        batch = len(self._running)
        self._start = now
        if prefilling:
            budget = max(speed.chunk_tokens - batch, 1)
            chunk = 0
            for entry in prefilling:
                chunk += entry.lacking
                if chunk >= budget:
                    chunk = budget
                    break
            self._chunk, self._steps = chunk, 1
            self._end = now + speed.iteration_seconds(batch, chunk, self.kv)
        elif batch:
            self._chunk, self._steps = 0, self._running[0][0] - self._step
            self._end = now + self._run_seconds(self._steps, batch)
        else:
            self._chunk = self._steps = 0
            self._end = math.inf

    def _run_seconds(self, steps: int, batch: int) -> float:
        """Length of `steps` iterations without prefill from the present state."""
        first = self.speed.iteration_seconds(batch, 0, self.kv)
        return steps * first + self.speed.per_kv_token_seconds * batch * (steps * (steps - 1) // 2)

    def _steps_until(self, elapsed: float, batch: int) -> int:
        """Iterations of a run without prefill that have begun after `elapsed` seconds."""
        first = self.speed.iteration_seconds(batch, 0, self.kv)
        growth = self.speed.per_kv_token_seconds * batch / 2
        if growth * elapsed < 1e-9 * first * first:
            return max(math.ceil(elapsed / first), 1)
        linear = first - growth
        return max(math.ceil((math.sqrt(linear * linear + 4 * growth * elapsed) - linear) / (2 * growth)), 1)

    def _cut(self, now: float) -> float | None:
        """End the run at the next boundary between iterations, so that the new request can join."""
        batch = len(self._running)
        steps = self._steps_until(now - self._start, batch)
        if steps >= self._steps:
            return None
        end = self._start + self._run_seconds(steps, batch)
        if end < now:  # rounding: the boundary lies a hair before now
            steps += 1
            end = self._start + self._run_seconds(steps, batch)
            if steps >= self._steps:
                return None
        self._steps, self._end = steps, end
        return end

    def _cached_tokens(self, request: Request) -> int:
        """Leading prompt tokens found in the prefix cache; at least one token is always computed."""
        cache, hits = self._cache, 0
        for block in request.blocks:
            if block not in cache:
                break
            cache.move_to_end(block)
            hits += 1
        return min(hits * BLOCK_TOKENS, request.prompt_tokens - 1)

    def _remember(self, blocks: Sequence[int]) -> None:
        """Keep a prompt's blocks; the oldest leave when the cache holds as many as the KV room."""
        cache = self._cache
        for block in blocks:
            cache[block] = None
            cache.move_to_end(block)
        room = self.speed.kv_tokens // BLOCK_TOKENS
        while len(cache) > room:
            cache.popitem(last=False)

    def read(self, now: float) -> "Counters":
        """The counters as of `now`, inside a run of iterations in proportion to its time."""
        if self._end == math.inf or now <= self._start:
            share = elapsed = 0.0
        else:
            elapsed = now - self._start
            share = min(elapsed / (self._end - self._start), 1.0)
        batch = len(self._running)
        tokens = share * self._steps * batch
        return Counters(
            self.busy_seconds + elapsed,
            self.prompt_tokens_done + share * self._chunk,
            self.output_tokens_done + tokens,
            self.iterations_done + share * self._steps,
            self.gap_seconds + batch * elapsed,
            self.kv + tokens,
        )


class Counters(NamedTuple):
    """What an engine exports, at one moment."""

    busy_seconds: float
    prompt_tokens: float
    output_tokens: float
    iterations: float
    gap_seconds: float
    kv_tokens: float
