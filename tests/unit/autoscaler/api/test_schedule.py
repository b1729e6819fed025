"""`spec.schedule`: windows as people write them, clocks and time zones."""

from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
import yaml

from autoscaler.api.resource import DECODER, SpecError, Target, read
from autoscaler.api.schedule import MOST_WINDOWS, scheduled
from autoscaler.law.inputs import Scheduled
from headroom.wire import encode
from tests.paths import DEPLOY

BERLIN = "Europe/Berlin"


def window(start: str, end: str, zone: str = "Etc/UTC", replicas: int = 3, name: str = "day") -> dict[str, Any]:
    return {"name": name, "start": start, "end": end, "timeZone": zone, "minReplicas": replicas}


def target(*windows: dict[str, Any], **spec: Any) -> Target:
    whole = {
        "scaleTargetRef": {"kind": "Deployment", "name": "chat"},
        "maxReplicas": 8,
        "schedule": list(windows),
        **spec,
    }
    return read(DECODER.decode(encode({"metadata": {"namespace": "ai", "name": "chat"}, "spec": whole})))


def unix(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def at(text: str, *windows: dict[str, Any]) -> Scheduled:
    found = scheduled(target(*windows).schedule, unix(text))
    assert found is not None
    return found


def floor(text: str, *windows: dict[str, Any]) -> int:
    return at(text, *windows).floor


WORKDAYS = window("0 8 * * 1-5", "0 18 * * MON-FRI", BERLIN)


@pytest.mark.parametrize(
    ("when", "replicas"),
    [
        pytest.param("2026-11-27T06:59+00:00", 0, id="a minute before eight on a Friday"),
        pytest.param("2026-11-27T07:00+00:00", 3, id="eight"),
        pytest.param("2026-11-27T16:59+00:00", 3, id="a minute before six"),
        pytest.param("2026-11-27T17:00+00:00", 0, id="six"),
        pytest.param("2026-11-28T10:00+00:00", 0, id="Saturday"),
        pytest.param("2026-07-03T06:00+00:00", 3, id="eight in summer"),
        pytest.param("2026-07-03T05:59+00:00", 0, id="before it"),
    ],
)
def test_office_hours(when: str, replicas: int) -> None:
    assert floor(when, WORKDAYS) == replicas


def test_over_night_and_over_the_end_of_the_year() -> None:
    night = window("0 22 * * *", "0 6 * * *")
    assert [floor(f"2026-12-31T{time}+00:00", night) for time in ("21:59", "22:00")] == [0, 3]
    assert [floor(f"2027-01-01T{time}+00:00", night) for time in ("05:59", "06:00")] == [3, 0]
    holidays = window("0 0 24 12 *", "0 0 7 1 *", replicas=2)
    assert [floor(f"{day}T12:00+00:00", holidays) for day in ("2026-12-23", "2027-01-01", "2027-01-07")] == [0, 2, 0]
    leap = window("0 0 29 2 *", "0 0 1 3 *")
    assert [floor(f"{day}T12:00+00:00", leap) for day in ("2027-02-28", "2028-02-29", "2028-03-01")] == [0, 3, 0]


def test_of_overlapping_windows_the_highest_counts_and_says_until_when() -> None:
    both = (WORKDAYS, window("0 12 * * *", "0 14 * * *", BERLIN, 6, "lunch"))
    assert [floor(f"2026-11-27T{time}+00:00", *both) for time in ("10:00", "11:30", "13:30", "17:30")] == [3, 6, 3, 0]
    assert at("2026-11-27T11:30+00:00", *both) == Scheduled("lunch", 6, True, "2026-11-27 14:00 Europe/Berlin")
    assert at("2026-11-27T20:00+00:00", *both) == Scheduled("lunch", 6, False, "2026-11-28 12:00 Europe/Berlin")


def test_an_hour_that_the_clocks_leave_out_has_passed_when_it_is_over() -> None:
    """29 March 2026 in Berlin: 02:00 is 03:00."""
    opens, closes = window("30 2 * * *", "0 9 * * *", BERLIN), window("0 22 * * *", "30 2 * * *", BERLIN)
    within = window("15 2 * * *", "45 2 * * *", BERLIN)
    for minute, expected in (("00:59", (0, 3, 0)), ("01:00", (3, 0, 0)), ("01:31", (3, 0, 0))):
        when = f"2026-03-29T{minute}+00:00"
        assert tuple(floor(when, one) for one in (opens, closes, within)) == expected


def test_an_hour_that_comes_twice_counts_once() -> None:
    """25 October 2026 in Berlin: 03:00 is 02:00 again."""
    opens, closes = window("30 2 * * *", "0 9 * * *", BERLIN), window("0 22 * * *", "30 2 * * *", BERLIN)
    begin = unix("2026-10-24T23:00+00:00")
    states = [
        tuple((scheduled(target(one).schedule, begin + 60 * minute) or AssertionError).floor for one in (opens, closes))  # type: ignore[union-attr]
        for minute in range(240)
    ]
    changes = [minute for minute in range(1, 240) if states[minute] != states[minute - 1]]
    assert changes == [90]
    assert (states[89], states[90]) == ((0, 3), (3, 0))


@pytest.mark.parametrize(
    ("zone", "change"),
    [
        (BERLIN, "2026-03-29"), (BERLIN, "2026-10-25"), ("Australia/Lord_Howe", "2026-04-05"), ("Australia/Lord_Howe", "2026-10-04"),
        ("America/New_York", "2026-03-08"), ("America/New_York", "2026-11-01"), ("Asia/Kathmandu", "2026-11-01"),
    ],
)  # fmt: skip
def test_each_day_has_one_window_in_any_zone(zone: str, change: str) -> None:
    """Lord Howe puts its clocks back by half an hour."""
    windows = target(window("45 1 * * *", "15 3 * * *", zone)).schedule
    begin = datetime.fromisoformat(f"{change}T12:00+00:00") - timedelta(days=2)
    found = [scheduled(windows, (begin + timedelta(minutes=15 * n)).timestamp()) for n in range(4 * 96)]
    floors = [one.floor for one in found if one is not None]
    assert sum(now > before for before, now in pairwise(floors)) == 4


def test_keda_keeps_a_window_open_where_it_starts_as_it_ends() -> None:
    weekly = window("0 8 * * *", "0 8 * * 6")
    assert floor("2026-11-28T08:30+00:00", weekly) == 3
    assert target(weekly).mistakes == ("schedule day: never ends, for at each time of its end it starts again",)
    assert at("2026-11-28T08:30+00:00", weekly).until is None


def test_shorthands_question_marks_and_the_usual_zone() -> None:
    found = target({"name": "a", "start": "@daily", "end": "0 6 ? * ?", "minReplicas": 1}, minReplicas=1)
    assert [(one.start, one.end, one.zone.key) for one in found.schedule] == [("0 0 * * *", "0 6 * * *", "Etc/UTC")]
    assert found.mistakes == ("schedule a: minReplicas 1 is no more than minReplicas 1",)


@pytest.mark.parametrize(
    ("windows", "words"),
    [
        ([window("61 8 * * *", "@daily")], "spec.schedule[0].start: '61 8 * * *' is not a line of cron with times that come"),
        ([window("@daily", "0 8 * *")], "spec.schedule[0].end: '0 8 * *' is not five fields of cron"),
        ([window("0 0 8 * * *", "@daily")], "'0 0 8 * * *' is not five fields"),
        ([window("@every 5m", "@daily")], "'@every 5m' is not five fields"),
        ([window("TZ=UTC 0 8 * * *", "@daily")], "is not five fields"),
        ([window("0 0 30 2 *", "@daily")], "spec.schedule[0].start: '0 0 30 2 *' is not a line of cron with times that come"),
        ([window("@daily", "0 0 */31 2 MON#5")], "spec.schedule[0].end: '0 0 */31 2 MON#5' is a line of cron whose time never comes"),
        ([window("@daily", "0 0 * * *")], "spec.schedule[0].end: '0 0 * * *' is the same as start"),
        ([window("@daily", "@hourly", "Europe/Berln")], "spec.schedule[0].timeZone: 'Europe/Berln' is not a time zone"),
        ([window("@daily", "@hourly", "Europe")], "'Europe' is not a time zone"),
        ([window("@daily", "@hourly", "../../etc/passwd")], "'../../etc/passwd' is not a time zone"),
        ([window("@daily", "@hourly", "")], "'' is not a time zone"),
        ([window("@daily", "@hourly", replicas=9)], "spec.schedule[0].minReplicas: 9 is not between 1 and maxReplicas 8"),
        ([window("@daily", "@hourly", replicas=0)], "spec.schedule[0].minReplicas: 0 is not between 1"),
        ([window("@daily", "@hourly", name="")], "spec.schedule[0].name: '' is empty"),
        ([WORKDAYS, WORKDAYS], "spec.schedule: ['day', 'day'] hold a name twice"),
        ([window("@daily", "@hourly", name=f"w{n}") for n in range(MOST_WINDOWS + 1)], "spec.schedule: 17 windows are more than 16"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_named_with_field_and_value(windows: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(SpecError) as raised:
        target(*windows)
    assert words in str(raised.value)


def test_a_schedule_can_bring_a_target_back_from_zero() -> None:
    assert target(WORKDAYS, minReplicas=0, scaleToZero={}).spec.scale_to_zero is not None
    assert target().schedule == ()
    assert scheduled((), 0.0) is None


def test_the_crd_takes_as_many_windows_and_the_usual_zone() -> None:
    crd = yaml.safe_load((DEPLOY / "base" / "crd-inferenceautoscalers.yaml").read_text(encoding="utf-8"))
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["schedule"]
    assert spec["maxItems"] == MOST_WINDOWS
    assert spec["items"]["properties"]["timeZone"]["default"] == "Etc/UTC"
