"""One model server with continuous batching, in virtual time, admitting and preempting as vLLM's scheduler does.

An iteration with `b` sequences that decode, `k` tokens of theirs in the KV cache, and a prefill chunk of `c` prompt tokens takes

    base + per_sequence b + per_kv_token k + per_prompt_token c + per_prompt_pair p        seconds,

`p` the pairs of a prompt token and a token before it: attention, which makes long prompts dearer than their length. A sequence
whose prompt is complete yields one token per iteration. Between two changes of the batch the iterations follow an arithmetic
progression (each adds `b` tokens to the cache), so a whole run of them is advanced in closed form: the cost of a simulation
grows with the number of requests, not of tokens.

Admission is first come first served: a request enters while a slot is free, its prompt fits the KV room and the iteration has
tokens left for it; outputs grow into what is left. When nothing is left the request that entered last goes back to the head of
the queue and loses its memory: prompt and output so far are computed again.
"""

import heapq
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from simulations.serving.engine.exports import Counters, Histograms
from simulations.serving.engine.prefix import BLOCK_TOKENS, PrefixCache
from simulations.serving.engine.request import Request

WATERMARK: Final = 0.01
"""Share of the KV room that admission leaves to the outputs of those inside."""


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
    """Most tokens in one iteration, those of decoding sequences included."""
    per_prompt_pair_seconds: float = 0.0

    def iteration_seconds(self, batch: float, chunk_tokens: float, kv_tokens: float, pairs: float = 0.0) -> float:
        """Length of one iteration; `kv_tokens` are those of the sequences that decode."""
        return (
            self.base_seconds
            + self.per_sequence_seconds * batch
            + self.per_prompt_token_seconds * chunk_tokens
            + self.per_kv_token_seconds * kv_tokens
            + self.per_prompt_pair_seconds * pairs
        )

    def prompt_seconds(self, tokens: float) -> float:
        """Time that the tokens of a prompt take, without the iterations that they are computed in."""
        return tokens * (self.per_prompt_token_seconds + self.per_prompt_pair_seconds * tokens / 2)

    def slower(self, factor: float) -> "Speed":
        """A replica that takes `factor` times as long for everything."""
        return Speed(
            self.base_seconds * factor,
            self.per_sequence_seconds * factor,
            self.per_prompt_token_seconds * factor,
            self.per_kv_token_seconds * factor,
            self.slots,
            self.kv_tokens,
            self.chunk_tokens,
            self.per_prompt_pair_seconds * factor,
        )


class Prefill:
    """An admitted request, the prompt tokens it still lacks and those it has."""

    __slots__ = ("done", "lacking", "order", "request")

    def __init__(self, request: Request, lacking: int, done: int, order: int) -> None:
        self.request = request
        self.lacking = lacking
        self.done = done
        self.order = order


class Replica:
    """The state of one server. The owner calls `arrive`, and `advance` at each time that either of them returned.

    Counters only grow: `busy_seconds`; `prompt_tokens_done` (whole prompts, counted with their first token, as engines do) and
    `cached_tokens_done` (of these, found in the prefix cache); `computed_tokens` (prompt tokens that were computed, after a
    preemption once more); `output_tokens_done`; `finished_count`; `iterations_done`; `gap_seconds` (sum of the `gaps_done`
    between output tokens); `preemptions`. They are exact at the ends of runs of iterations; `read` interpolates between.
    `histograms`, where set, are filled as vLLM fills its own.
    """

    __slots__ = (
        "_chunk", "_end", "_order", "_prefix", "_running", "_start", "_step", "_steps", "busy_seconds", "cached_tokens_done",
        "computed_tokens", "context", "ended_output_tokens", "ended_prompt_tokens", "finished_count", "gap_seconds", "gaps_done",
        "histograms", "iterations_done", "output_tokens_done", "preemptions", "prefilling", "prompt_tokens_done", "speed", "taken",
        "waiting",
    )  # fmt: skip

    def __init__(self, speed: Speed, histograms: Histograms | None = None) -> None:
        self.speed = speed
        self.histograms = histograms
        self.waiting: deque[Request] = deque()
        self.prefilling: deque[Prefill] = deque()
        self._running: list[tuple[int, int, Request]] = []
        """Heap of (decode step at which it ends, order of admission, request)."""
        self._order = 0
        self._step = 0
        self._steps = 0
        """Decode steps of the run under way; 0 when idle."""
        self._chunk = 0
        self._start = 0.0
        self._end = math.inf
        self.taken = 0
        """KV tokens that are in use or promised to an admitted prompt."""
        self.context = 0
        """KV tokens of the sequences that decode."""
        self._prefix = PrefixCache()
        self.busy_seconds = 0.0
        self.prompt_tokens_done = 0
        self.cached_tokens_done = 0
        self.computed_tokens = 0
        self.output_tokens_done = 0
        self.iterations_done = 0
        self.gap_seconds = 0.0
        self.gaps_done = 0
        self.finished_count = 0
        self.ended_prompt_tokens = 0
        self.ended_output_tokens = 0
        self.preemptions = 0

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

    def cached_blocks(self, blocks: Sequence[int]) -> int:
        """Leading blocks of a prompt that the prefix cache holds."""
        return self._prefix.hits(blocks)

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
        running, steps = self._running, self._steps
        elapsed = now - self._start
        self.busy_seconds += elapsed
        self.iterations_done += steps
        batch = len(running)
        if batch:
            grown = batch * steps
            self.gap_seconds += batch * elapsed
            self._step += steps
            self.taken += grown
            self.context += grown
            self.output_tokens_done += grown
            self.gaps_done += grown
            if self.histograms is not None:
                self.histograms.inter_token.add(elapsed / steps, grown)
            step = self._step
            while running and running[0][0] <= step:
                self._finish(heapq.heappop(running)[2], now, done)
        if self._chunk:
            self._prefill(now, first, done)
        self._begin(now)
        return first, done

    def _finish(self, request: Request, now: float, done: list[Request]) -> None:
        request.finished = now
        tokens = request.prompt_tokens + request.output_tokens - 1
        self.context -= tokens
        self._let_go(request, tokens)
        self.finished_count += 1
        self.ended_prompt_tokens += request.prompt_tokens
        self.ended_output_tokens += request.output_tokens
        if self.histograms is not None:
            self.histograms.ended(request)
        done.append(request)

    def _let_go(self, request: Request, tokens: int) -> None:
        """Give a request's KV tokens back; shared blocks only when nobody uses them any more."""
        if request.held_blocks:
            held = request.blocks[: request.held_blocks]
            self.taken -= tokens - len(held) * BLOCK_TOKENS + self._prefix.drop(held) * BLOCK_TOKENS
            request.held_blocks = 0
            self._prefix.trim(self.speed.kv_tokens - self.taken)
        else:
            self.taken -= tokens

    def _prefill(self, now: float, first: list[Request], done: list[Request]) -> None:
        chunk = self._chunk
        self.computed_tokens += chunk
        prefilling = self.prefilling
        while chunk > 0:
            entry = prefilling[0]
            lacking = entry.lacking
            if lacking > chunk:
                entry.lacking = lacking - chunk
                entry.done += chunk
                return
            chunk -= lacking
            prefilling.popleft()
            self._complete(entry, now, first, done)

    def _complete(self, entry: Prefill, now: float, first: list[Request], done: list[Request]) -> None:
        """A prompt is computed: its request has a token more and decodes from here on."""
        request = entry.request
        generated = request.generated
        if not generated:
            request.first_token = now
            self.prompt_tokens_done += request.prompt_tokens
            self.cached_tokens_done += request.cached_tokens
            if self.histograms is not None:
                self.histograms.began(request)
            first.append(request)
        self.output_tokens_done += 1
        self.context += request.prompt_tokens + generated
        if request.blocks:
            self._share(request)
        if request.output_tokens == generated + 1:
            self._finish(request, now, done)
        else:
            ends = self._step + request.output_tokens - generated - 1
            heapq.heappush(self._running, (ends, entry.order, request))

    def _share(self, request: Request) -> None:
        """The blocks of a prompt that was computed are there for others from now on."""
        whole = request.prompt_tokens // BLOCK_TOKENS
        new = request.blocks[request.held_blocks : whole]
        self.taken -= (len(new) - self._prefix.hold(new)) * BLOCK_TOKENS  # another one computed them at the same time
        request.held_blocks += len(new)

    def _admissible(self, request: Request) -> bool:
        speed = self.speed
        inside = len(self.prefilling) + len(self._running)
        if not inside:
            return True
        if inside >= speed.slots:
            return False
        need = request.prompt_tokens + request.generated
        if request.blocks:
            need -= self._prefix.hits(request.blocks) * BLOCK_TOKENS
        return self.taken + need <= speed.kv_tokens * (1 - WATERMARK)

    def _admit(self, now: float) -> Prefill:
        """Take the head of the queue into the batch."""
        request = self.waiting.popleft()
        need = request.prompt_tokens + request.generated
        have = self._reuse(request) if request.blocks else 0
        if math.isnan(request.scheduled):
            request.scheduled = now
            request.cached_tokens = have
        self.taken += need - have
        self._order += 1
        entry = Prefill(request, need - have, have, self._order)
        self.prefilling.append(entry)
        return entry

    def _reuse(self, request: Request) -> int:
        """Use what the prefix cache has of a prompt; returns the tokens. At least one token is always computed."""
        hits = min(self._prefix.hits(request.blocks), (request.prompt_tokens - 1) // BLOCK_TOKENS)
        self.taken += self._prefix.hold(request.blocks[:hits]) * BLOCK_TOKENS
        request.held_blocks = hits
        self._prefix.trim(self.speed.kv_tokens - self.taken)
        return hits * BLOCK_TOKENS

    def _begin(self, now: float) -> None:
        """Make room for what grows, admit what fits, and start the next run of iterations."""
        running, speed = self._running, self.speed
        batch = len(running)
        left = speed.kv_tokens - self.taken
        while left < batch and batch + len(self.prefilling) > 1:
            self._preempt()
            batch = len(running)
            left = speed.kv_tokens - self.taken
        self._start = now
        if self.prefilling or self.waiting:
            self._chunk, pairs = self._next_chunk(max(speed.chunk_tokens - batch, 1), now)
            if self._chunk:
                self._steps = 1
                self._end = now + speed.iteration_seconds(batch, self._chunk, self.context, pairs)
                return
        self._chunk = 0
        if batch:
            steps = running[0][0] - self._step
            if left < batch * steps:
                steps = max(left // batch, 1)
            self._steps = steps
            self._end = now + self._run_seconds(steps, batch)
        else:
            self._steps = 0
            self._end = math.inf

    def _next_chunk(self, budget: int, now: float) -> tuple[int, float]:
        """(prompt tokens of the next iteration, pairs of them with tokens before them).

        Prompts under way come first; then the queue is admitted as long as tokens are left in the iteration.
        """
        chunk, pairs = 0, 0.0
        for entry in self.prefilling:
            tokens = min(entry.lacking, budget - chunk)
            chunk += tokens
            pairs += tokens * (entry.done + tokens / 2)
            if chunk >= budget:
                return chunk, pairs
        waiting = self.waiting
        while waiting and chunk < budget and self._admissible(waiting[0]):
            entry = self._admit(now)
            tokens = min(entry.lacking, budget - chunk)
            chunk += tokens
            pairs += tokens * (entry.done + tokens / 2)
        return chunk, pairs

    def _preempt(self) -> None:
        """Take the memory of the request that entered last; it waits at the head of the queue."""
        self.preemptions += 1
        running, prefilling = self._running, self.prefilling
        at = max(range(len(running)), key=lambda index: running[index][1], default=-1)
        if prefilling and (at < 0 or prefilling[-1].order > running[at][1]):
            request = prefilling.pop().request
            self._let_go(request, request.prompt_tokens + request.generated)
        else:
            ends, _, request = running[at]
            running[at] = running[-1]
            running.pop()
            heapq.heapify(running)
            request.generated = request.output_tokens - (ends - self._step)
            tokens = request.prompt_tokens + request.generated - 1
            self.context -= tokens
            self._let_go(request, tokens)
        self.waiting.appendleft(request)

    def _run_seconds(self, steps: int, batch: int) -> float:
        """Length of `steps` iterations without prefill from the present state."""
        first = self.speed.iteration_seconds(batch, 0, self.context)
        return steps * first + self.speed.per_kv_token_seconds * batch * (steps * (steps - 1) // 2)

    def _steps_until(self, elapsed: float, batch: int) -> int:
        """Iterations of a run without prefill that have begun after `elapsed` seconds."""
        first = self.speed.iteration_seconds(batch, 0, self.context)
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

    def read(self, now: float) -> Counters:
        """The counters as of `now`, inside a run of iterations in proportion to its time."""
        if self._end == math.inf or now <= self._start:
            share = elapsed = 0.0
        else:
            elapsed = now - self._start
            share = min(elapsed / (self._end - self._start), 1.0)
        batch = len(self._running)
        tokens = share * self._steps * batch
        lacking = sum(entry.lacking for entry in self.prefilling) if self.prefilling else 0
        return Counters(
            self.busy_seconds + elapsed,
            self.prompt_tokens_done,
            self.cached_tokens_done,
            self.output_tokens_done + tokens,
            self.iterations_done + share * self._steps,
            self.gap_seconds + batch * elapsed,
            self.gaps_done + tokens,
            self.taken - lacking + share * self._chunk + tokens,
            self.finished_count,
            self.ended_prompt_tokens,
            self.ended_output_tokens,
        )
