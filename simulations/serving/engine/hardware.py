"""Parameters of (model, card) pairs: read from a data file that names the source of each figure."""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

import yaml

from headroom.errors import HeadroomError
from simulations.serving.engine.replica import Speed
from simulations.serving.engine.request import Request

_NUMBERS: Final = (
    "base_ms", "per_sequence_ms", "per_prompt_token_ms", "per_kv_token_ms", "slots", "kv_tokens", "chunk_tokens", "context_tokens",
    "vram_mib", "card_vram_mib", "cards",
)  # fmt: skip
_MAY_BE_ZERO: Final = frozenset({"per_sequence_ms", "per_kv_token_ms", "per_prompt_pair_ns"})


class HardwareError(HeadroomError):
    """A pair that is unknown or badly described; the text names the pair and the field."""


@dataclass(frozen=True, slots=True)
class StartPhase:
    """One phase of a cold start: log-normal with this median and this deviation of the logarithm."""

    name: str
    median_seconds: float
    sigma: float


@dataclass(frozen=True, slots=True)
class Pair:
    """A model on a card: speed, memory, cold start."""

    model: str
    card: str
    cards: int
    """Cards of one replica (tensor parallelism)."""
    vram_mib: int
    """Memory that a replica takes on each of them."""
    card_vram_mib: int
    """Memory that the card has."""
    context_tokens: int
    """Longest prompt plus output that the model takes."""
    speed: Speed
    cold_start: tuple[StartPhase, ...]
    checks: tuple[Mapping[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """For messages and tables."""
        return f"{self.model} on {self.cards} x {self.card}" if self.cards > 1 else f"{self.model} on {self.card}"

    def cold_start_seconds(self, rng: random.Random, *, new_image: bool, new_node: bool) -> float:
        """One draw. Every phase is drawn whether it counts or not, so that the random stream does not depend on it."""
        total = 0.0
        for phase in self.cold_start:
            seconds = phase.median_seconds * math.exp(phase.sigma * rng.gauss(0.0, 1.0))
            if (phase.name != "node" or new_node) and (phase.name != "image" or new_image):
                total += seconds
        return total

    @property
    def median_start_seconds(self) -> float:
        """Sum of the medians of the phases that a start on a warm node has."""
        return sum(phase.median_seconds for phase in self.cold_start if phase.name not in {"node", "image"})

    def idle_ttft_seconds(self, prompt_tokens: int) -> float:
        """Time to first token on an idle replica: no law can do better."""
        speed = self.speed
        return math.ceil(prompt_tokens / speed.chunk_tokens) * speed.base_seconds + speed.prompt_seconds(prompt_tokens)

    def idle_itl_seconds(self, prompt_tokens: int, output_tokens: int) -> float:
        """Mean time between tokens of a request alone on a replica."""
        return self.speed.iteration_seconds(1, 0, prompt_tokens + output_tokens / 2)


def bundled_pairs() -> list[Pair]:
    """The pairs that come with Headroom."""
    return _parse(resources.files("simulations.serving.engine").joinpath("pairs.yaml").read_text("utf-8"), "pairs.yaml")


def read_pairs(path: Path) -> list[Pair]:
    """Pairs of another file of the same shape. Raises HardwareError."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise HardwareError(f"cannot read {path}: {error}") from error
    return _parse(text, str(path))


def find_pair(pairs: list[Pair], model: str, card: str) -> Pair:
    """The pair of this model and card. Raises HardwareError that lists what there is."""
    for pair in pairs:
        if (pair.model, pair.card) == (model, card):
            return pair
    known = ", ".join(f"{pair.model}/{pair.card}" for pair in pairs)
    raise HardwareError(f"no figures for model {model!r} on card {card!r}; known pairs: {known}")


def _parse(text: str, source: str) -> list[Pair]:
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise HardwareError(f"{source} is not YAML: {error}") from error
    entries = document.get("pairs") if isinstance(document, dict) else None
    if not isinstance(entries, list) or not entries:
        raise HardwareError(f"{source} has no list `pairs`")
    return [_pair(entry, f"{source}: pair {at}") for at, entry in enumerate(entries, start=1)]


def _pair(entry: Any, where: str) -> Pair:
    if not isinstance(entry, dict):
        raise HardwareError(f"{where} is not a mapping")
    for name in ("model", "card"):
        if not isinstance(entry.get(name), str) or not entry[name]:
            raise HardwareError(f"{where}: {name} must be a name, not {entry.get(name)!r}")
    where = f"{where} ({entry['model']} on {entry['card']})"
    numbers = {name: _number(entry, name, where) for name in _NUMBERS}
    phases = entry.get("cold_start")
    if not isinstance(phases, list) or not phases:
        raise HardwareError(f"{where}: cold_start must list at least one phase")
    return Pair(
        model=entry["model"],
        card=entry["card"],
        cards=int(numbers["cards"]),
        vram_mib=int(numbers["vram_mib"]),
        card_vram_mib=int(numbers["card_vram_mib"]),
        context_tokens=int(numbers["context_tokens"]),
        speed=Speed(
            base_seconds=numbers["base_ms"] / 1000,
            per_sequence_seconds=numbers["per_sequence_ms"] / 1000,
            per_prompt_token_seconds=numbers["per_prompt_token_ms"] / 1000,
            per_kv_token_seconds=numbers["per_kv_token_ms"] / 1000,
            slots=int(numbers["slots"]),
            kv_tokens=int(numbers["kv_tokens"]),
            chunk_tokens=int(numbers["chunk_tokens"]),
            per_prompt_pair_seconds=_number({"per_prompt_pair_ns": 0, **entry}, "per_prompt_pair_ns", where) / 1e9,
        ),
        cold_start=tuple(_phase(phase, where) for phase in phases),
        checks=tuple(entry.get("checks", ())),
    )


def _phase(phase: Any, where: str) -> StartPhase:
    if not isinstance(phase, dict) or not isinstance(phase.get("phase"), str):
        raise HardwareError(f"{where}: a phase of cold_start needs a name, not {phase!r}")
    where = f"{where}, phase {phase['phase']}"
    sigma = phase.get("sigma", 0)
    if not isinstance(sigma, int | float) or not 0 <= sigma <= 3:
        raise HardwareError(f"{where}: sigma must be between 0 and 3, not {sigma!r}")
    return StartPhase(phase["phase"], _number(phase, "median_seconds", where), float(sigma))


def _number(entry: Mapping[str, Any], name: str, where: str) -> float:
    value = entry.get(name)
    least_is_zero = name in _MAY_BE_ZERO
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise HardwareError(f"{where}: {name} must be a number, not {value!r}")
    if value < 0 or (value == 0 and not least_is_zero):
        raise HardwareError(f"{where}: {name} must be {'at least' if least_is_zero else 'above'} 0, not {value!r}")
    return float(value)


def decode_tokens_per_second(speed: Speed, batch: int, context_tokens: float) -> float:
    """Output tokens per second of a steady batch, what offline benchmarks report."""
    return batch / speed.iteration_seconds(batch, 0, batch * context_tokens)


def work_seconds(speed: Speed, request: Request, batch: float) -> float:
    """GPU seconds that a request takes of a replica whose decode batch has the given size."""
    gaps = request.output_tokens - 1
    context = request.prompt_tokens + request.output_tokens / 2
    step = speed.base_seconds / batch + speed.per_sequence_seconds + speed.per_kv_token_seconds * context
    return speed.prompt_seconds(request.prompt_tokens) + gaps * step


def marginal_work_seconds(speed: Speed, request: Request) -> float:
    """GPU seconds that a request adds to a replica that iterates anyway: without the part of an iteration that the batch shares."""
    context = request.prompt_tokens + request.output_tokens / 2
    step = speed.per_sequence_seconds + speed.per_kv_token_seconds * context
    return speed.prompt_seconds(request.prompt_tokens) + (request.output_tokens - 1) * step
