"""What a token costs on a target's hardware, learned from the engine's own counters. Pure.

One iteration of a continuous-batching engine takes about A + B x batch + C x prompt tokens in it (seconds). The mean
inter-token latency of a pod over an interval is the mean length of an iteration while it decodes; output and prompt
tokens per iteration follow from the counters. A, B and C are fitted over pods and ticks by least squares with
exponential forgetting; a prompt token then costs C, an output token (A + B b) / b at the batch b that the pod can
reach. Only warm pods are used; a fit on too little or too uniform data is not used at all.
"""

import math
from dataclasses import dataclass
from typing import Final, NamedTuple

SIZE: Final = 3  # coefficients: A, B, C


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


class Cost(NamedTuple):
    """GPU seconds per token."""

    per_prompt_token: float
    per_output_token: float


@dataclass(frozen=True, slots=True)
class CostSettings:
    """How costs are learned."""

    target_batch: float = 32.0
    """Batch at which an output token is priced: what a well-filled replica runs."""
    batch_share: float = 0.8
    """Of the batch that the KV cache has room for."""
    forget: float = 0.998
    """Weight of older samples, per sample: a memory of some 500."""
    samples_needed: float = 20.0
    spread_needed: float = 0.3
    """Standard deviation of the batch relative to its mean, below which A and B cannot be told apart."""
    fit_needed: float = 0.3
    """Smallest R squared."""
    ridge: float = 1e-3


@dataclass(frozen=True, slots=True)
class CostState:
    """Decayed sums of the normal equations over (1, batch, prompt tokens) and the length of an iteration."""

    xx: tuple[float, ...] = (0.0,) * (SIZE * SIZE)
    xy: tuple[float, ...] = (0.0,) * SIZE
    yy: float = 0.0
    weight: float = 0.0
    batch_room: float = 0.0
    """Mean of the finite rooms seen; 0: none."""


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
    return CostState(
        tuple(state.xx[i * SIZE + j] * keep + x[i] * x[j] for i in range(SIZE) for j in range(SIZE)),
        tuple(state.xy[i] * keep + x[i] * sample.seconds for i in range(SIZE)),
        state.yy * keep + sample.seconds**2,
        state.weight * keep + 1.0,
        room,
    )


def fit(state: CostState, settings: CostSettings) -> tuple[float, float, float] | None:
    """A, B, C in seconds, none below 0; None while the data are too few, too uniform or do not follow the law."""
    if state.weight < settings.samples_needed:
        return None
    mean_batch = state.xx[1] / state.weight
    variance = state.xx[1 * SIZE + 1] / state.weight - mean_batch**2
    if variance <= 0 or math.sqrt(variance) < settings.spread_needed * mean_batch:
        return None
    columns = list(range(SIZE))
    while columns:
        solution = _solve(state, columns, settings.ridge)
        if solution is None:
            return None
        worst = min(range(len(columns)), key=lambda k: solution[k])
        if solution[worst] >= 0:
            break
        del columns[worst]
    else:
        return None
    if 0 not in columns or 1 not in columns:
        return None
    coefficients = [0.0] * SIZE
    for column, value in zip(columns, solution, strict=True):
        coefficients[column] = value
    if _r_squared(state, coefficients) < settings.fit_needed:
        return None
    return coefficients[0], coefficients[1], coefficients[2]


def cost(state: CostState, settings: CostSettings) -> Cost | None:
    """GPU seconds per prompt and per output token; None while they are not known."""
    coefficients = fit(state, settings)
    if coefficients is None:
        return None
    base, per_request, per_prompt_token = coefficients
    batch = settings.target_batch
    if state.batch_room:
        batch = max(min(batch, state.batch_room * settings.batch_share), 1.0)
    per_output_token = (base + per_request * batch) / batch
    if per_prompt_token <= 0 or per_output_token <= 0:
        return None
    return Cost(per_prompt_token, per_output_token)


def _solve(state: CostState, columns: list[int], ridge: float) -> list[float] | None:
    """Gauss elimination of the normal equations on `columns`, scaled to unit diagonal so that one ridge suits all."""
    scale = [math.sqrt(state.xx[c * SIZE + c]) for c in columns]
    if min(scale) <= 0:
        # A column of zeros (no prompts seen at all) has no coefficient to find.
        kept = [c for c, s in zip(columns, scale, strict=True) if s > 0]
        found = _solve(state, kept, ridge) if kept else None
        return None if found is None else [found[kept.index(c)] if c in kept else 0.0 for c in columns]
    rows = [
        [
            state.xx[a * SIZE + b] / (scale[i] * scale[j]) + (ridge / state.weight if i == j else 0.0)
            for j, b in enumerate(columns)
        ]
        + [state.xy[a] / scale[i]]
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
    return [rows[i][size] / rows[i][i] / scale[i] for i in range(size)]


def _r_squared(state: CostState, coefficients: list[float]) -> float:
    mean = state.xy[0] / state.weight
    total = state.yy - state.weight * mean**2
    if total <= 0:
        return 1.0
    explained = sum(c * xy for c, xy in zip(coefficients, state.xy, strict=True))
    quadratic = sum(
        coefficients[i] * coefficients[j] * state.xx[i * SIZE + j] for i in range(SIZE) for j in range(SIZE)
    )
    return 1.0 - (state.yy - 2 * explained + quadratic) / total
