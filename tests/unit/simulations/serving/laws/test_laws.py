"""Each baseline law against steps worked out by hand from its documentation."""

import math
from dataclasses import replace

import pytest

from simulations.serving.fleet.observe import PodSample, Sample, View
from simulations.serving.laws import hpa, knative, llmd
from simulations.serving.laws.aibrix import apa_step
from simulations.serving.laws.base import Entry, Objective, Setting
from simulations.serving.laws.catalogue import LAWS, LawError, law_by_name
from simulations.serving.laws.hpa import Behaviour, ExternalHpa, Trigger, cpu_percent, external_wish, pods_metric_wish
from simulations.serving.laws.knative import KnativeKpa
from simulations.serving.laws.llmd import LlmdSlo, WvaSaturation, backlog_tokens, slo_step
from simulations.serving.laws.space import Choice, Range


def sample(time: float, *, inside: int = 0, request_seconds: float = 0.0, pods: int = 1) -> Sample:
    return Sample(
        time=time,
        pods=(PodSample(0, inside, 0.1, 0.5),) * pods,
        held=0,
        inside=inside,
        arrived=0,
        request_seconds=request_seconds,
        first_token_count=0,
        finished_count=0,
    )


class FakeView(View):
    """What a law reads of a view, scripted."""

    def __init__(
        self, now: float, replicas: int, ready: int, samples: list[Sample], ttft: float = 0.0, itl: float = 0.0
    ) -> None:
        self.now, self.replicas, self.ready = now, replicas, ready
        self._samples, self._ttft, self._itl = samples, ttft, itl

    @property
    def latest(self) -> Sample | None:
        return self._samples[-1] if self._samples else None

    def window(self, seconds: float) -> list[Sample]:
        newest = self._samples[-1].time
        return [one for one in self._samples if one.time >= newest - seconds]

    def ttft_quantile(self, share: float, seconds: float) -> float:
        return self._ttft

    def itl_quantile(self, share: float, seconds: float) -> float:
        return self._itl


@pytest.mark.parametrize(
    ("values", "unready", "current", "target", "wish"),
    [
        ([90.0, 90.0, 90.0], 0, 3, 50.0, 6),  # ceil(3 x 1.8)
        ([52.0, 53.0], 0, 2, 50.0, 2),  # within 10 %
        ([20.0, 20.0, 20.0, 20.0], 0, 4, 50.0, 2),  # ceil(4 x 0.4)
        ([100.0, 100.0], 2, 4, 80.0, 4),  # two that start count as 0: 200/4/80 = 0.63 turns the ratio round: no move
        ([100.0] * 4, 1, 5, 40.0, 10),  # 400/5/40 = 2: ceil(2 x 5)
        ([], 1, 3, 50.0, 3),  # no metric: hold
    ],
)
def test_hpa_on_a_pods_metric(values: list[float], unready: int, current: int, target: float, wish: int) -> None:
    assert pods_metric_wish(values, unready, current, target) == wish


@pytest.mark.parametrize(
    ("total", "current", "target", "wish"),
    [(23.0, 2, 5.0, 5), (10.4, 2, 5.0, 2), (0.0, 4, 5.0, 0), (7.0, 0, 5.0, 2)],
)
def test_keda_on_a_total(total: float, current: int, target: float, wish: int) -> None:
    assert external_wish(total, current, target) == wish


def test_hpa_behaviour_grows_by_the_larger_of_double_and_four_per_15_s_and_waits_300_s_to_shrink() -> None:
    behaviour = Behaviour(hpa.DEFAULTS)
    assert behaviour.apply(0.0, 3, 20) == 7  # +4 beats doubling
    assert behaviour.apply(10.0, 7, 20) == 7  # the period's allowance is spent
    assert behaviour.apply(15.0, 7, 20) == 14
    assert behaviour.apply(30.0, 14, 2) == 14  # 20 was wished within 300 s
    assert behaviour.apply(320.0, 14, 2) == 2  # the last wish for more is 305 s old


def test_hpa_on_cpu_sees_a_quarter_of_its_request_however_busy_the_gpu_is() -> None:
    assert cpu_percent(PodSample(0, 50, 0.9, 1.0)) == pytest.approx(27.5)
    assert pods_metric_wish([27.5] * 4, 0, 4, 80.0) == 2


def test_kpa_takes_the_stable_mean_and_shrinks_by_at_most_half() -> None:
    law = KnativeKpa({**knative.DEFAULTS, "target": 10.0}, 15.0, initial=1)
    steady = [sample(15.0 * at, inside=40, request_seconds=40.0 * 15 * at) for at in range(5)]
    assert law.wish(FakeView(60.0, 4, 4, steady)) == 4  # 40 / 10
    quiet = [sample(15.0 * at, inside=1, request_seconds=1.0 * 15 * at) for at in range(5)]
    assert law.wish(FakeView(120.0, 8, 8, quiet)) == 4  # ceil(1 / 10) = 1, clipped to 8 / 2


def test_kpa_panics_at_twice_the_ready_pods_and_takes_nothing_away_for_a_minute() -> None:
    law = KnativeKpa({**knative.DEFAULTS, "target": 10.0}, 15.0, initial=1)
    calm = [sample(15.0 * at, inside=20, request_seconds=20.0 * 15 * at) for at in range(5)]
    assert law.wish(FakeView(60.0, 2, 2, calm)) == 2
    burst = [*calm, sample(75.0, inside=90, request_seconds=20.0 * 60 + 80 * 15)]
    assert law.wish(FakeView(75.0, 2, 2, burst)) == 8  # panic mean 80 over 10 = 8 >= 2 x 2
    over = [*burst, sample(90.0, inside=0, request_seconds=burst[-1].request_seconds)]
    assert law.wish(FakeView(90.0, 8, 8, over)) == 8
    later = [sample(90.0 + 15 * at, request_seconds=3000.0) for at in range(6)]
    assert law.wish(FakeView(165.0, 8, 8, later)) == 4  # 90 s after the crossing


@pytest.mark.parametrize(
    ("current", "ratio", "wish"),
    [(4, 1.05, 4), (4, 1.5, 6), (4, 3.0, 8), (4, 0.8, 4), (8, 0.6, 5), (8, 0.1, 4)],
)
def test_apa_steps(current: int, ratio: float, wish: int) -> None:
    # 1.05 lies within 10 %; 3.0 is cut to double; ceil(4 x 0.8) = 4; ceil(8 x 0.6) = 5; 0.1 is cut to half
    assert apa_step(current, ratio) == wish


@pytest.mark.parametrize(
    ("pods", "step"),
    [
        ([(0.85, 0.0), (0.9, 0.0)], 1),  # all saturated by KV
        ([(0.3, 6.0)], 1),  # saturated by its queue
        ([(0.75, 0.0), (0.72, 0.0)], 1),  # spare KV 0.065 < 0.1
        ([(0.4, 2.5), (0.4, 2.5)], 1),  # spare queue 2.5 < 3
        ([(0.5, 0.0), (0.5, 0.0)], 0),  # spread over one: 0.8 - 1.0 < 0.1
        ([(0.2, 0.0), (0.2, 0.0)], -1),  # spread over one: 0.8 - 0.4 >= 0.1
        ([(0.2, 1.0), (0.2, 1.5)], 0),  # spread over one: 5 - 2.5 < 3
        ([(0.1, 0.0)], 0),  # the last one stays
    ],
)
def test_wva_saturation_steps(pods: list[tuple[float, float]], step: int) -> None:
    assert WvaSaturation(llmd.WVA_DEFAULTS).step(pods) == step


def test_wva_waits_while_pods_are_on_their_way() -> None:
    law = WvaSaturation({**llmd.WVA_DEFAULTS, "kv_limit": 0.05, "interval": 30.0})
    assert law.wish(FakeView(0.0, 3, 2, [sample(0.0, pods=2)])) == 3
    assert law.wish(FakeView(30.0, 3, 3, [sample(30.0, pods=3)])) == 4


@pytest.mark.parametrize(
    ("current", "ready", "ratio", "wish"),
    [
        (4, 4, 1.1, 8),  # 4 + ceil(4 (1.1 / 0.55 - 1))
        (8, 4, 1.1, 8),  # half of them are on their way: 1.1 x 0.5 = 0.55
        (4, 4, 0.5, 4),
        (5, 5, 0.2, 3),  # 5 - floor(5 (1 - 0.2 / 0.4))
    ],
)
def test_slo_law_steps(current: int, ready: int, ratio: float, wish: int) -> None:
    assert slo_step(current, ready, ratio, 0.55, 0.40) == wish


def test_slo_law_grows_after_30_s_and_shrinks_by_one_per_two_minutes() -> None:
    law = LlmdSlo(setting(), llmd.SLO_DEFAULTS)
    ttft = (1.0, 4.0, 4.0)  # ratios 0.5, 2, 2; their means 0.5, 1.25, 1.5 ask for 2, 5 and 6
    up = [law.wish(FakeView(15.0 * at, 2, 2, [sample(15.0 * at)], ttft=ttft[at])) for at in range(3)]
    assert up == [2, 2, 5]  # the lowest wish of the last 30 s
    law = LlmdSlo(setting(), llmd.SLO_DEFAULTS)
    replicas, seen = 6, []
    for at in range(40):
        replicas = law.wish(FakeView(15.0 * at, replicas, replicas, [sample(15.0 * at)], ttft=0.1, itl=0.001))
        seen.append(replicas)
    assert seen[:12] == [6] * 12  # 180 s window
    assert seen[-1] == 6 - math.floor((600 - 15 - 180) / 120) - 1


def setting() -> Setting:
    from simulations.serving.engine.hardware import bundled_pairs
    from simulations.serving.loads.traces import Trace

    return Setting(bundled_pairs()[0], Objective(2.0, 0.1), 1, 10, 15.0, 15.0, 2, Trace("t", (0.0,), (1,), (1,)))


def test_an_unknown_law_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(LawError, match=r"unknown law 'hpa'; there are hpa-cpu"):
        law_by_name("hpa")


@pytest.mark.parametrize("entry", LAWS.values(), ids=lambda entry: entry.name)
def test_tuning_knows_every_field_that_a_law_has_and_stays_within_its_range(entry: Entry) -> None:
    assert set(entry.defaults) <= {*entry.space, "ahead"}
    for field in entry.space.values():
        values = [field.at(share) for share in (0.0, 0.25, 0.5, 0.75, 0.999)]
        assert values == sorted(values)
        assert [field.at(field.share_of(value)) for value in values] == pytest.approx(values, rel=0.02)


def test_a_field_keeps_to_its_kind() -> None:
    assert Range(1.0, 64.0, whole=True).at(0.5) == 8.0
    assert Range(0.0, 10.0, logarithmic=False).at(0.25) == 2.5
    assert Choice((15.0, 30.0, 60.0)).at(1.0) == 60.0
    assert Choice((15.0, 30.0, 60.0)).share_of(31.0) == 0.5


def test_hpa_up_window_takes_the_lowest_and_down_rates_bound_a_cut() -> None:
    behaviour = Behaviour(
        {**hpa.DEFAULTS, "up_window": 30.0, "down_window": 15.0, "down_percent": 0.0, "down_pods": 2.0}
    )
    assert [behaviour.apply(15.0 * at, 2, 6) for at in range(3)] == [2, 2, 6]
    assert behaviour.apply(60.0, 10, 1) == 8


def test_keda_takes_the_largest_of_its_triggers() -> None:
    triggers = [Trigger(lambda s: s.inside, 10.0), Trigger(lambda s: 2.0, 1.0)]
    law = ExternalHpa(triggers, {**hpa.DEFAULTS, "polling": 15.0})
    assert law.wish(FakeView(0.0, 2, 2, [sample(0.0, inside=35)])) == 4
    assert law.wish(FakeView(15.0, 4, 4, [sample(15.0, inside=5)])) == 4  # the window holds it


def test_token_law_counts_prompts_that_wait_at_the_router_like_those_in_engines() -> None:
    one = PodSample(2, 5, 0.1, 0.5, waiting_tokens=3000)
    assert backlog_tokens(replace(sample(0.0), pods=(one, one), held=4)) == 6000 + 4 * 1500
    law = LAWS["llmd-tokens"].make(setting(), llmd.TOKENS_DEFAULTS)
    velocity = 1 / (0.0308e-3 + 7.06e-3 / 2048)
    busy = PodSample(0, 5, 0.9, 0.5, waiting_tokens=int(velocity * 1.5 * 3.5))
    assert law.wish(FakeView(0.0, 1, 1, [replace(sample(0.0), pods=(busy,))])) == 4


def test_kpa_holds_the_highest_wish_of_its_scale_down_delay() -> None:
    law = KnativeKpa({**knative.DEFAULTS, "target": 10.0, "down_delay": 120.0}, 15.0, initial=1)
    steady = [sample(15.0 * at, inside=40, request_seconds=40.0 * 15 * at) for at in range(5)]
    quiet = [sample(15.0 * at, inside=10, request_seconds=10.0 * 15 * at) for at in range(5)]
    assert law.wish(FakeView(60.0, 4, 4, steady)) == 4
    assert law.wish(FakeView(150.0, 4, 4, quiet)) == 4
    assert law.wish(FakeView(195.0, 4, 4, quiet)) == 2  # clipped to half of what is ready
