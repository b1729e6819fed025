"""What the last minute taught of an object with an objective: load, forecast errors, lateness, error budget. Pure."""

import math
from dataclasses import replace

from autoscaler.law.constants import LawConstants
from autoscaler.law.inputs import Freshness, Work
from autoscaler.law.memory import forecast, lateness
from autoscaler.law.memory.learned import LateCurve
from autoscaler.law.sizing import load
from autoscaler.law.turn import Turn

LONGEST_TICK_SECONDS = 60.0


def priced_work(turn: Turn) -> Work | None:
    """The work, where it is fresh and tokens have a price."""
    work = turn.observation.work
    return work if work is not None and work.state is Freshness.FRESH and work.known else None


def note(turn: Turn) -> None:
    """Learn, where there is an objective and tokens have a price."""
    work, law, state = priced_work(turn), turn.law, turn.state
    ready = turn.supply.ready
    if state.ready_count != ready:
        turn.note(ready_count=ready, ready_since=turn.now)
    if turn.spec.objective is None or work is None:
        return
    now = turn.now
    seconds = min(now - state.looked_at, LONGEST_TICK_SECONDS) if state.looked_at is not None else 0.0
    rate = load.load_now(work, law).total
    rates = (*(old for old in state.loads if now - old[0] < law.load_memory_seconds), (now, rate))
    turn.note(looked_at=now, loads=rates, smoothed=forecast.smoothed(state.smoothed, now, rate))
    if seconds <= 0:
        return
    _judge_forecasts(turn, work, seconds)
    _note_lateness(turn, work, seconds)


def _judge_forecasts(turn: Turn, work: Work, seconds: float) -> None:
    made = forecast.due(turn.state.forecasts, turn.now, turn.lead_seconds)
    if made is None:
        return
    came = forecast.mean(turn.state.loads, turn.now, turn.law.long_mean_seconds)
    learned = turn.state.learned
    errors = forecast.judged(
        learned.errors,
        came,
        made,
        work.seconds_per_request,
        forecast.mean(turn.state.loads, turn.now, turn.law.load_memory_seconds),
        seconds,
        turn.law,
    )
    turn.note(learned=replace(learned, errors=errors))


def _note_lateness(turn: Turn, work: Work, seconds: float) -> None:
    law, state = turn.law, turn.state
    learned = state.learned
    requests = work.answers_per_second * seconds
    usual = learned.requests_per_second or work.answers_per_second
    usual += (1 - math.exp(-seconds / law.budget_seconds)) * (work.answers_per_second - usual)
    late = max(work.late_share - learned.curve.floor, 0.0)
    average = lateness.spent(learned.late_average, requests, late, usual * law.budget_seconds)
    hour_seen = lateness.spent(learned.hour_seen, requests, 1.0, usual * law.budget_seconds)
    settled_average = learned.settled_late_average
    curve = _usual(turn, work, learned.curve)
    came = forecast.mean(turn.state.loads, turn.now, law.long_mean_seconds)
    waiting = load.queue(work, law)
    objective = turn.spec.objective
    patience = (objective.first_token_seconds if objective else None) or law.drain_seconds / 2
    if waiting * law.drain_seconds > law.settled_queue * patience * turn.supply.ready:
        turn.note(backlog_at=turn.now)
    since, backlog = turn.state.ready_since, turn.state.backlog_at
    settled = since is not None and turn.now - since >= law.long_mean_seconds
    settled = settled and turn.now - state.loads[0][0] >= 2 * law.long_mean_seconds
    clear = backlog is None or turn.now - backlog >= 2 * law.long_mean_seconds
    if settled and clear and turn.supply.ready > 0 and requests > 0:
        at = (came + waiting) / turn.supply.ready
        curve = lateness.note(curve, at, requests, work.late_share, seconds, law)
        settled_average = lateness.spent(settled_average, requests, late, usual * law.budget_seconds)
    turn.note(
        learned=replace(
            learned,
            curve=curve,
            late_average=average,
            settled_late_average=settled_average,
            hour_seen=hour_seen,
            requests_per_second=usual,
        )
    )


def _usual(turn: Turn, work: Work, curve: LateCurve) -> LateCurve:
    """How sudden lateness comes where nothing is known yet: the longer the prompts against the objective, the earlier it begins."""
    objective, law = turn.spec.objective, turn.law
    grain = max(work.prompt_grain, work.prompt_tokens_per_request) * work.seconds_per_prompt_token
    if objective is None or not objective.first_token_seconds or grain <= 0:
        return curve
    usual = law.curve_steepness * math.sqrt(objective.first_token_seconds / grain)
    usual = min(max(usual, law.curve_steepness_least), law.curve_steepness_most)
    tokens = max(work.prompt_grain, work.prompt_tokens_per_request)
    if not curve.seen:
        return replace(curve, usual_steepness=usual, steepness=usual, prompt_tokens=tokens)
    longer = tokens / (curve.prompt_tokens or tokens)
    if max(longer, 1 / longer) < law.curve_mix:
        return replace(curve, usual_steepness=usual, prompt_tokens=curve.prompt_tokens or tokens)
    return _of_another_mix(replace(curve, usual_steepness=usual, prompt_tokens=tokens), longer, law)


def _of_another_mix(curve: LateCurve, longer: float, law: LawConstants) -> LateCurve:
    """The curve where a mean prompt is `longer` times what it was: lateness begins as much earlier, and little was seen of it."""
    steepness = min(max(curve.steepness / math.sqrt(longer), law.curve_steepness_least), law.curve_steepness_most)
    seen, missed = (tuple(n * law.curve_mix_keeps for n in counts) for counts in (curve.seen, curve.missed))
    return replace(curve, steepness=steepness, seen=seen, missed=missed, seconds=0.0)


def allowed(turn: Turn) -> float:
    """Share of requests that may be late for want of replicas."""
    assert turn.spec.objective is not None
    share = (1 - turn.spec.objective.share) * turn.law.budget_aim
    return max(share - turn.state.learned.curve.floor, turn.law.budget_least * share)


def budget_left(turn: Turn) -> float:
    """Share of the error budget that is left; below 0 when it is overdrawn."""
    return 1 - turn.state.learned.late_average / allowed(turn)


def hopeless(turn: Turn) -> bool:
    """Whether next to all that may be late is late however many replicas there are."""
    assert turn.spec.objective is not None
    share = (1 - turn.spec.objective.share) * turn.law.budget_aim
    return share - turn.state.learned.curve.floor < turn.law.budget_least * share


def aim(turn: Turn) -> float:
    """Share of late requests that replicas are counted for.

    More than is allowed while budget is left. Less only where requests were late although all replicas were there: those that met a
    cold start or a queue left by one are no reason to load replicas less.
    """
    left, law, may = budget_left(turn), turn.law, allowed(turn)
    settled = 1 - turn.state.learned.settled_late_average / may
    if settled < 0:
        return may * max(1 + settled, law.budget_least)
    return may * (1 + law.budget_spend * max(min(left, settled), 0.0))


def price(turn: Turn) -> float:
    """What a GPU second of late work may cost; 0 without an objective."""
    law = turn.law
    if turn.spec.objective is None:
        return 0.0
    return law.miss_weight * math.exp(min(max(-budget_left(turn), 0.0), law.price_rise))
