"""The closed form of a replica against the same rules iterated one by one, and what must hold of any run."""

import heapq
import math
from collections import deque
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulations.serving.engine.replica import Replica, Speed
from simulations.serving.engine.request import Request

SPEED = Speed(
    base_seconds=0.02,
    per_sequence_seconds=0.0003,
    per_prompt_token_seconds=0.0001,
    per_kv_token_seconds=1e-6,
    slots=4,
    kv_tokens=3000,
    chunk_tokens=256,
)

requests = st.lists(
    st.tuples(st.floats(0, 20), st.integers(1, 1200), st.integers(1, 60)),
    min_size=1,
    max_size=25,
    unique_by=lambda row: row[0],  # which of two at the same instant is seen first is nobody's business
).map(sorted)


def closed_form(rows: list[tuple[float, int, int]], speed: Speed) -> tuple[list[Request], Replica]:
    replica = Replica(speed)
    made = [Request(*row) for row in rows]
    events: list[tuple[float, int, Request | None]] = [
        (request.arrival, at, request) for at, request in enumerate(made)
    ]
    heapq.heapify(events)
    order = len(made)
    while events:
        now, _, request = heapq.heappop(events)
        if request is not None:
            due = replica.arrive(request, now)
        elif replica.next_event == now:
            replica.advance(now)
            due = replica.next_event if replica.next_event < math.inf else None
        else:
            due = None
        if due is not None:
            order += 1
            heapq.heappush(events, (due, order, None))
    return made, replica


@dataclass
class Sequence:
    request: Request
    order: int
    lacking: int
    produced: int
    """Output tokens, those before a preemption included."""

    @property
    def taken(self) -> int:
        """KV tokens in use, or promised to a prompt that is being computed."""
        return self.request.prompt_tokens + self.produced - (0 if self.lacking else 1)


@dataclass
class Iterated:
    """The same engine by the rules of its docstring, one iteration after another."""

    speed: Speed
    waiting: deque[tuple[Request, int]] = field(default_factory=deque)
    """(request, output tokens it had when it was preempted)."""
    batch: list[Sequence] = field(default_factory=list)
    entered: int = 0

    def run(self, made: list[Request]) -> None:
        coming = deque(made)
        now = 0.0
        while coming or self.waiting or self.batch:
            if not self.waiting and not self.batch:
                now = max(now, coming[0].arrival)
            while coming and coming[0].arrival <= now:
                self.waiting.append((coming.popleft(), 0))
            self._make_room()
            now += self._iterate()
            self._end(now)

    def _taken(self) -> int:
        return sum(sequence.taken for sequence in self.batch)

    def _admit(self) -> bool:
        """Take the head of the queue into the batch, if it may enter."""
        if not self.waiting or len(self.batch) >= self.speed.slots:
            return False
        request, produced = self.waiting[0]
        need = request.prompt_tokens + produced
        if self.batch and self._taken() + need > self.speed.kv_tokens * 0.99:
            return False
        self.waiting.popleft()
        self.entered += 1
        self.batch.append(Sequence(request, self.entered, need, produced))
        return True

    def _make_room(self) -> None:
        while len(self.batch) > 1 and self.speed.kv_tokens - self._taken() < sum(not s.lacking for s in self.batch):
            last = max(self.batch, key=lambda sequence: sequence.order)
            self.batch.remove(last)
            self.waiting.appendleft((last.request, last.produced))

    def _iterate(self) -> float:
        decoding = [s for s in self.batch if not s.lacking]
        context = sum(s.taken for s in decoding)
        budget = max(self.speed.chunk_tokens - len(decoding), 1)
        chunk, pairs, at = 0, 0.0, 0
        while chunk < budget:
            prefilling = sorted((s for s in self.batch if s not in decoding), key=lambda s: s.order)
            if at == len(prefilling):
                if not self._admit():
                    break
                continue
            sequence, at = prefilling[at], at + 1
            part = min(sequence.lacking, budget - chunk)
            done = sequence.request.prompt_tokens + sequence.produced - sequence.lacking
            pairs += sum(done + token + 0.5 for token in range(part))
            chunk += part
            sequence.lacking -= part
            if part and not sequence.lacking:
                sequence.produced += 1
        for sequence in decoding:
            sequence.produced += 1
        return self.speed.iteration_seconds(len(decoding), chunk, context, pairs)

    def _end(self, now: float) -> None:
        for sequence in self.batch:
            if sequence.produced and not sequence.lacking and math.isnan(sequence.request.first_token):
                sequence.request.first_token = now
            if not sequence.lacking and sequence.produced == sequence.request.output_tokens:
                sequence.request.finished = now
        self.batch = [s for s in self.batch if s.lacking or s.produced < s.request.output_tokens]


TIGHT = replace(SPEED, kv_tokens=1300, per_prompt_pair_seconds=1e-7)
"""So little memory that outputs take it from one another."""


@settings(max_examples=200, deadline=None)
@given(requests, st.sampled_from([SPEED, TIGHT]))
def test_advancing_many_iterations_at_once_equals_iterating_them(
    rows: list[tuple[float, int, int]], speed: Speed
) -> None:
    made, _ = closed_form(rows, speed)
    expected = [Request(*row) for row in rows]
    Iterated(speed).run(expected)
    for got, wanted in zip(made, expected, strict=True):
        assert got.first_token == pytest.approx(wanted.first_token, abs=1e-6)
        assert got.finished == pytest.approx(wanted.finished, abs=1e-6)


def test_memory_that_runs_out_takes_the_last_request_back_to_the_head_of_the_queue() -> None:
    made, replica = closed_form([(0.0, 600, 200), (0.1, 600, 200)], TIGHT)
    alone, _ = closed_form([(0.0, 600, 200)], TIGHT)
    assert replica.preemptions >= 1
    assert replica.computed_tokens > 1200  # prompt and output so far are computed again
    assert replica.prompt_tokens_done == 1200  # and counted once
    assert made[0].finished < made[1].finished
    assert made[1].itl_seconds > 1.5 * alone[0].itl_seconds


@settings(max_examples=100, deadline=None)
@given(requests, st.sampled_from([SPEED, TIGHT]))
def test_a_drained_replica_has_done_all_tokens_and_holds_nothing(
    rows: list[tuple[float, int, int]], speed: Speed
) -> None:
    made, replica = closed_form(rows, speed)
    assert all(request.arrival < request.first_token <= request.finished for request in made)
    assert replica.finished_count == len(made)
    assert replica.output_tokens_done == sum(output for _, _, output in rows)
    assert replica.prompt_tokens_done == sum(prompt for _, prompt, _ in rows)
    assert (replica.load, replica.taken, replica.context) == (0, 0, 0)
    assert replica.busy_seconds <= max(request.finished for request in made) - rows[0][0] + 1e-9


@settings(max_examples=60, deadline=None)
@given(requests, st.floats(0, 1))
def test_counters_read_between_events_lie_between_those_at_the_events(
    rows: list[tuple[float, int, int]], share: float
) -> None:
    replica = Replica(SPEED)
    now, last = 0.0, replica.read(0.0)
    for row in rows:
        while replica.next_event <= row[0]:
            start, now = now, replica.next_event
            middle = replica.read(start + share * (now - start))
            replica.advance(now)
            after = replica.read(now)
            assert last.output_tokens - 1e-9 <= middle.output_tokens <= after.output_tokens + 1e-9
            assert last.busy_seconds - 1e-9 <= middle.busy_seconds <= after.busy_seconds + 1e-9
            last = after
        now = max(now, row[0])
        replica.arrive(Request(*row), row[0])
        last = replica.read(now)
