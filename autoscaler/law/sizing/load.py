"""The load now, in GPU seconds per second: one term for prompts, one for decoding. Pure.

What arrives is what is done and what piles up: tokens done times their prices, and the growth of the requests inside times the work
that is left of one. So a full replica does not hide a load beyond it, a queue that is worked off is not taken for new load, and a
change of the lengths shows at once. Decoding holds a part of a batch for as long as a request lives; of its growth as much counts
as comes to be done soon.
"""

from typing import NamedTuple

from autoscaler.law.constants import LawConstants
from autoscaler.law.inputs import Work

MOST: float = 1e9
"""Beyond any cluster: what is more is no measurement."""


class Load(NamedTuple):
    """GPU seconds per second."""

    prompt: float
    decode: float

    @property
    def total(self) -> float:
        return self.prompt + self.decode


def residence_seconds(work: Work) -> float:
    """Time that a mean request spends inside, by Little's law; 0 where it is not known."""
    if work.requests_per_second is None or work.requests_per_second[1] <= 0:
        return 0.0
    return work.running / work.requests_per_second[1]


def load_now(work: Work, law: LawConstants) -> Load:
    """What arrives, over the short averaging time."""
    prompt = work.prompt_tokens_per_second[0] * work.seconds_per_prompt_token
    decode = work.output_tokens_per_second[0] * work.seconds_per_output_token
    per_request = work.seconds_per_request
    if work.tokens_at_end:
        prompt += (work.running_growth + work.waiting_growth) * per_request
        return Load(_bounded(prompt), _bounded(decode))
    if work.running > 0:
        soon = min(residence_seconds(work) / 2, law.short_mean_seconds)
        decode *= max(1 + work.running_growth * soon / work.running, 0.0)
    return Load(_bounded(prompt + work.waiting_growth * per_request), _bounded(decode))


def chance(work: Work, load: float, law: LawConstants) -> float:
    """Variance of the load over a minute by the chance of which requests arrive in it.

    Prompts: each brings its work at once, `load x work of the prompt that a prompt token belongs to / minute`. Decoding: the number
    of requests inside is Poisson, each holds 1 / full batch of a replica, for its time inside.
    """
    whole = work.seconds_per_request
    prompt_share = work.prompt_tokens_per_request * work.seconds_per_prompt_token / whole if whole > 0 else 1.0
    tokens = max(work.prompt_grain, work.prompt_tokens_per_request)
    prompt = load * prompt_share * tokens * work.seconds_per_prompt_token / law.long_mean_seconds
    held = 1 / work.full_batch if work.full_batch > 0 else whole
    lasting = min(2 * residence_seconds(work) / law.long_mean_seconds, 1.0)
    return prompt + load * (1 - prompt_share) * held * lasting


def queue(work: Work, law: LawConstants) -> float:
    """Work that waits, to be done within the drain time."""
    waiting = max(work.waiting_prompt_tokens * work.seconds_per_prompt_token, work.waiting * work.seconds_per_request)
    return min(waiting / law.drain_seconds, MOST)


def _bounded(work: float) -> float:
    return min(max(work, 0.0), MOST)
