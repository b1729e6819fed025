"""What a token costs on a target's hardware, learned from the engine's own counters. Pure.

One iteration of a continuous-batching engine takes about A + B x batch + C x prompt tokens in it (seconds). The mean
inter-token latency of a pod over an interval is the mean length of an iteration while it decodes; output and prompt
tokens per iteration follow from the counters. A, B and C are fitted over pods and ticks by least squares with
exponential forgetting. Only warm pods are used; a fit on too little or too uniform data is not used at all.

From A, B, C to a price. At P prompt and O output tokens per second an iteration settles at length t with b = O t
sequences and P t prompt tokens in it, so t = A / (1 - C P - B O): the part of a second that a replica can spend on tokens
while iterations stay within L is 1 - A / L, and with room for M sequences C P + (B + A / M) O <= 1 must hold as well. The
prices are C / (1 - A / L) and B / (1 - A / L), or C and B + A / M where that bound is the tighter one at the mix of prompt and
output tokens seen: a load of 1 is what one replica can carry. (A itself is no price: it is shared by whatever batch there
is, which is why a price at some fixed batch misjudges busy replicas.)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

SIZE: Final = 3  # coefficients: A, B, C
LEAST_PRICE: Final = 1e-9  # seconds: a kind of token too rare to be told from none is not free, but next to it


class Iterations(NamedTuple):
    """One warm pod over one interval with traffic."""

    seconds: float
    """Mean length of an iteration."""
    batch: float
    """Output tokens per iteration: requests that decode at once."""
    prompt_tokens: float
    """Prompt tokens per iteration."""
    batch_room: float = math.inf
    """The batch at which the KV cache would be full, reckoned from its use now."""


def counted(
    *,
    seconds: float,
    iterations: float,
    mean_gap_seconds: float,
    output_tokens: float,
    prompt_tokens: float,
    batch_room: float,
) -> Iterations:
    """A pod's `iterations` (above 0) of an interval of `seconds`, with the tokens done in them.

    The mean gap between tokens leans to the long iterations of full batches while the load changes; the mean over iterations
    is exact while the engine never pauses, and longer than the truth when it does: the smaller of the two counts.
    """
    length = min(mean_gap_seconds, seconds / iterations)
    return Iterations(length, output_tokens / iterations, prompt_tokens / iterations, batch_room)


class Cost(NamedTuple):
    """Seconds of what one replica can do, per token."""

    per_prompt_token: float
    per_output_token: float
    full_batch: float = 0.0
    """Requests in a replica that is as full as its prices allow; 0: not known."""

    def of_request(self, prompt_tokens: float, output_tokens: float) -> float:
        """Seconds of what one replica can do that a request of so many tokens takes."""
        return prompt_tokens * self.per_prompt_token + output_tokens * self.per_output_token


class Doubt(NamedTuple):
    """Standard error of each price, as a share of it. Infinite where there is nothing to tell it by."""

    per_prompt_token: float
    per_output_token: float


@dataclass(frozen=True, slots=True)
class CostSettings:
    """How costs are learned."""

    target_batch: float = 256.0
    """Most sequences that a replica runs at once (vLLM's `--max-num-seqs`)."""
    batch_share: float = 0.8
    """Of the batch that the KV cache has room for."""
    slowdown: float = 4.0
    """How much longer than alone an iteration may take where no objective for it is given: L = slowdown x A."""
    least_share: float = 0.2
    """A replica counts as able to carry at least this, however tight the objective."""
    forget: float = 0.998
    """Weight of older samples, per sample: a memory of some 500."""
    samples_needed: float = 12.0
    prompt_samples_needed: float = 4.0
    """Of a prefill replica, whose one price is a mean."""
    error_allowed: float = 0.1
    """Largest standard error, relative, of the iteration that the fit foretells at twice the mean load."""
    ridge: float = 1e-3
    least_misfit: float = 0.01
    """An engine is no formula: samples that lie closer to it than this, as a share of the mean iteration, prove no more."""


@dataclass(frozen=True, slots=True)
class CostState:
    """Decayed sums of the normal equations over (1, batch, prompt tokens) and the length of an iteration."""

    xx: tuple[float, ...] = (0.0,) * (SIZE * SIZE)
    xy: tuple[float, ...] = (0.0,) * SIZE
    yy: float = 0.0
    weight: float = 0.0
    batch_room: float = 0.0
    """Mean of the finite rooms seen; 0: none."""
    found: tuple[float, float, float] | None = None
    """A, B, C of the latest samples that could be fitted: a load that has become too even to fit says nothing against them."""


def learn(state: CostState, sample: Iterations, settings: CostSettings) -> CostState:
    """Add one sample; a sample that is no measurement (not finite, no batch) changes nothing."""
    values = (sample.seconds, sample.batch, sample.prompt_tokens)
    if (
        not all(math.isfinite(v) for v in values)
        or sample.seconds <= 0
        or sample.batch <= 0
        or sample.prompt_tokens < 0
    ):
        return state
    x = (1.0, sample.batch, sample.prompt_tokens)
    keep = settings.forget
    room = state.batch_room
    if math.isfinite(sample.batch_room) and sample.batch_room > 0:
        room = sample.batch_room if not room else room + 0.1 * (sample.batch_room - room)
    added = CostState(
        tuple(state.xx[i * SIZE + j] * keep + x[i] * x[j] for i in range(SIZE) for j in range(SIZE)),
        tuple(state.xy[i] * keep + x[i] * sample.seconds for i in range(SIZE)),
        state.yy * keep + sample.seconds**2,
        state.weight * keep + 1.0,
        room,
        state.found,
    )
    return replace(added, found=fit(added, settings) or state.found)


def fit(state: CostState, settings: CostSettings) -> tuple[float, float, float] | None:
    """A, B, C in seconds, none below 0; None while the samples cannot tell how long an iteration takes at twice the load."""
    if state.weight < settings.samples_needed:
        return None
    columns = [c for c in range(SIZE) if state.xx[c * SIZE + c] > 0]
    ahead = (1.0, 2 * state.xx[1] / state.weight, 2 * state.xx[2] / state.weight)
    solution: list[float] | None = None
    spread: list[float] = []
    while columns:
        solved = _solve(state, columns, (state.xy, ahead), settings.ridge)
        if solved is None:
            return None
        solution, spread = solved
        worst = min(range(len(columns)), key=lambda k: solution[k])
        if solution[worst] >= 0:
            break
        del columns[worst]
    if solution is None or 0 not in columns or len(columns) == 1:
        return None
    coefficients = [0.0] * SIZE
    for column, value in zip(columns, solution, strict=True):
        coefficients[column] = value
    variance = sum(ahead[c] * value for c, value in zip(columns, spread, strict=True))
    if _error_ahead(state, len(columns), coefficients, ahead, variance) > settings.error_allowed:
        return None
    return coefficients[0], coefficients[1], coefficients[2]


def cost(state: CostState, settings: CostSettings, inter_token_seconds: float | None = None) -> Cost | None:
    """Price of a prompt and of an output token, in seconds of what one replica can do; None while they are not known.

    `inter_token_seconds` is the objective L for the time between tokens; see the module for the formula.
    """
    if state.found is None:
        return None
    base, per_request, per_prompt_token = state.found
    longest = inter_token_seconds or settings.slowdown * base
    share = max(1.0 - base / longest, settings.least_share) if longest > 0 else 1.0
    batch = settings.target_batch
    if state.batch_room:
        batch = max(min(batch, state.batch_room * settings.batch_share), 1.0)
    mix = state.xx[2] / state.xx[1]  # prompt tokens per output token
    full = share * longest / max(per_request + per_prompt_token * mix, LEAST_PRICE)
    prompt, output = per_prompt_token / share, per_request / share
    if full > batch:
        full, prompt, output = batch, per_prompt_token, per_request + base / batch
    return Cost(max(prompt, LEAST_PRICE), max(output, LEAST_PRICE), full)


def prompt_cost(state: CostState, settings: CostSettings) -> Cost | None:
    """Price of a prompt token on a replica that does nothing else; None while too few samples are known.

    The mean over the samples: a prefill replica has no batch, and is full when it computes all the time.
    """
    if state.weight < settings.prompt_samples_needed or state.xx[2] <= 0:
        return None
    return Cost(max(state.xy[0] / state.xx[2], LEAST_PRICE), LEAST_PRICE)


def doubt(state: CostState, settings: CostSettings) -> Doubt:
    """How well the samples of late tell the two prices, and each from the other (ordinary least squares: s2 (X'X)^-1).

    While prompt and output tokens come in one mix, the iteration is foretold well along that mix and the split between the two
    prices is not known: both errors are large then, though the fit is good.
    """
    if state.weight <= SIZE or any(state.xx[c * SIZE + c] <= 0 for c in range(SIZE)):
        return Doubt(math.inf, math.inf)
    units = ((0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    solved = _solve(state, [*range(SIZE)], (state.xy, *units), settings.ridge)
    if solved is None:
        return Doubt(math.inf, math.inf)
    found, of_output, of_prompt = solved
    mean = state.xy[0] / state.weight
    misfit = max(_residual(state, found, SIZE), (settings.least_misfit * mean) ** 2)
    output, prompt = (
        math.sqrt(misfit * max(spread[c], 0.0)) / found[c] if found[c] > 0 else math.inf
        for c, spread in ((1, of_output), (2, of_prompt))
    )
    return Doubt(prompt, output)


def _residual(state: CostState, coefficients: Sequence[float], columns: int) -> float:
    """Mean square of what the fit leaves unexplained, in seconds squared."""
    explained = sum(c * xy for c, xy in zip(coefficients, state.xy, strict=True))
    quadratic = sum(
        coefficients[i] * coefficients[j] * state.xx[i * SIZE + j] for i in range(SIZE) for j in range(SIZE)
    )
    return max(state.yy - 2 * explained + quadratic, 0.0) / max(state.weight - columns, 1.0)


def _solve(
    state: CostState, columns: list[int], rights: Sequence[Sequence[float]], ridge: float
) -> list[list[float]] | None:
    """A solution for each of `rights`, by Gauss elimination of the normal equations on `columns`; None where they have none.

    They are scaled to unit diagonal, so that one ridge suits all.
    """
    scale = [math.sqrt(state.xx[c * SIZE + c]) for c in columns]
    rows = [
        [
            state.xx[a * SIZE + b] / (scale[i] * scale[j]) + (ridge / state.weight if i == j else 0.0)
            for j, b in enumerate(columns)
        ]
        + [right[a] / scale[i] for right in rights]
        for i, a in enumerate(columns)
    ]
    size = len(rows)
    for pivot in range(size):
        best = max(range(pivot, size), key=lambda r: abs(rows[r][pivot]))
        if abs(rows[best][pivot]) < 1e-12:
            return None
        rows[pivot], rows[best] = rows[best], rows[pivot]
        for row in range(size):
            if row != pivot:
                factor = rows[row][pivot] / rows[pivot][pivot]
                rows[row] = [a - factor * b for a, b in zip(rows[row], rows[pivot], strict=True)]
    return [[rows[i][size + k] / rows[i][i] / scale[i] for i in range(size)] for k in range(len(rights))]


def _error_ahead(
    state: CostState, columns: int, coefficients: Sequence[float], ahead: Sequence[float], variance: float
) -> float:
    """Standard error of the iteration foretold `ahead`, at twice the mean batch and prompt, relative to it.

    `variance` is that of the prediction for residuals of 1.
    """
    foretold = sum(c * x for c, x in zip(coefficients, ahead, strict=True))
    if foretold <= 0:
        return math.inf
    return math.sqrt(max(_residual(state, coefficients, columns) * variance, 0.0)) / foretold
