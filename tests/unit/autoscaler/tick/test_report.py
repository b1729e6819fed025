"""A week beside another scaler: what it cost and missed, and what Headroom would have."""

from collections.abc import Sequence

import pytest

from autoscaler.tick import report
from autoscaler.tick.shadow import NEEDED, READY, REPLICAS, START_UP, WANTED, Shadow, words
from headroom.prometheus.client import PrometheusSource
from tests.fakes.prometheus import FakePrometheus, series

END = 1_800_000_000.0


def samples(**columns: Sequence[float]) -> dict[str, list[tuple[float, float]]]:
    names = {"replicas": REPLICAS, "ready": READY, "wanted": WANTED, "needed": NEEDED, "start_up": START_UP}
    return {names[name]: [(60.0 * step, value) for step, value in enumerate(found)] for name, found in columns.items()}


class TestShadow:
    def test_what_was_asked_for_is_summed_and_what_lacked_is_told_apart(self) -> None:
        shadow = Shadow()
        shadow.add(
            samples(replicas=[8] * 60, ready=[6] * 60, wanted=[4] * 60, needed=[7] * 30 + [3] * 30, start_up=[60] * 60),
            60,
        )
        assert (shadow.seen_hours, shadow.replica_hours, shadow.shadow_hours) == pytest.approx((1, 8, 4))
        assert shadow.short_hours == pytest.approx(0.5)
        assert shadow.shadow_short_hours == pytest.approx(1.5)

    def test_a_replica_that_was_just_asked_for_is_not_there_yet(self) -> None:
        shadow = Shadow()
        shadow.add(
            samples(
                replicas=[2] * 9, ready=[2] * 9, wanted=[2] * 3 + [5] * 6, needed=[2] * 3 + [5] * 6, start_up=[180] * 9
            ),
            60,
        )
        assert shadow.shadow_short_hours == pytest.approx(3 * 3 / 60)
        assert shadow.short_hours == pytest.approx(3 * 6 / 60)

    def test_times_at_which_the_load_is_not_known_are_left_out(self) -> None:
        shadow = Shadow()
        shadow.add(samples(replicas=[8] * 60, ready=[8] * 60, wanted=[8] * 60, needed=[1] * 15), 60)
        assert (shadow.seen_hours, shadow.replica_hours) == pytest.approx((0.25, 2))

    def test_nothing_recorded(self) -> None:
        shadow = Shadow()
        shadow.add({}, 60)
        assert shadow == Shadow()
        assert "is the autoscaler scraped?" in words({}, 0, "")

    def test_costs_where_a_price_is_stated(self) -> None:
        text = words({"a/x": Shadow(1, 8, 4, 1, 0, 5), "a/y": Shadow(1, 2, 2, 0, 0, 2)}, 3, "EUR")
        rows = [line.split() for line in text.splitlines()]
        assert rows[1] == ["a/x", "1.0", "8.0", "4.0", "24.00", "EUR", "12.00", "EUR", "50", "%", "1.00", "0.00"]
        assert rows[3][:4] == ["all", "2.0", "10.0", "6.0"]


async def test_two_autoscalers_and_renamed_labels_are_one_object() -> None:
    async with FakePrometheus().serve() as prometheus:
        for metric, value in {REPLICAS: 6.0, READY: 6.0, WANTED: 4.0, NEEDED: 4.0, START_UP: 60.0}.items():
            points = [(END - 60.0 * step, value) for step in range(60, -1, -1)]
            prometheus.answer(
                metric,
                series({}, *points, namespace="headroom-system", exported_namespace="chat", name="llm"),
                series({}, *points, namespace="chat", name="llm"),
                series({}, *points, namespace="other", name="llm"),
            )
        source = PrometheusSource(prometheus.url)
        found = await report.read(source, END - 3600, END, namespace="chat")
        await source.close()
    assert list(found) == ["chat/llm"]
    assert (found["chat/llm"].replica_hours, found["chat/llm"].shadow_hours) == pytest.approx((6, 4))
    assert prometheus.queries[0].endswith("[3600s:60s] @ 1800000000.000")
