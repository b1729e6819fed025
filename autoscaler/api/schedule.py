"""`spec.schedule`: windows of the clock with a floor of replicas each, and what they ask for at a given time. Pure."""

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from autoscaler.law.inputs import Scheduled
from headroom.wire import Wire

UTC: Final = "Etc/UTC"
MOST_WINDOWS: Final = 16
_SHORTHANDS: Final = {
    "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *", "@monthly": "0 0 1 * *", "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@hourly": "0 * * * *",
}  # fmt: skip
_SOME_DAY: Final = datetime.datetime(2001, 1, 1)  # noqa: DTZ001 - the wall clock of whatever zone
_ENDS_LOOKED_AT: Final = 24
"""So many ends that are a start as well: the window never ends."""
_MINUTE: Final = datetime.timedelta(minutes=1)

Fail = Callable[[str, object, str], Exception]
"""(field, value, what is wrong with it) -> the error to raise."""


class WindowWire(Wire):
    name: str = ""
    start: str = ""
    end: str = ""
    time_zone: str = UTC
    min_replicas: int = 0


@dataclass(frozen=True, slots=True)
class Window:
    """From each time of `start` until the next one of `end`, on the wall clock of `zone`, at least so many replicas.

    At a time that is both, it stays open, as KEDA's cron trigger does.
    """

    name: str
    start: str
    end: str
    """Five fields of cron."""
    zone: ZoneInfo
    replicas: int

    def is_open(self, clock: datetime.datetime) -> bool:
        """Whether it is at this minute of its wall clock."""
        after = clock + _MINUTE
        return _times(self.start, after, back=True) >= _times(self.end, after, back=True)

    def next_change(self, clock: datetime.datetime) -> datetime.datetime | None:
        """When it next closes, or opens, on its wall clock; None where it never does."""
        if not self.is_open(clock):
            return _times(self.start, clock)
        for _ in range(_ENDS_LOOKED_AT):
            clock = _times(self.end, clock)
            if not self.is_open(clock):
                return clock
        return None


def read_schedule(wires: Sequence[WindowWire] | None, most: int, fail: Fail) -> tuple[Window, ...]:
    """The windows of an object with `most` replicas at most. Raises the error of `fail`."""
    if not wires:
        return ()
    if len(wires) > MOST_WINDOWS:
        raise fail("schedule", len(wires), f"windows are more than {MOST_WINDOWS}")
    windows = tuple(_window(wire, f"schedule[{index}]", most, fail) for index, wire in enumerate(wires))
    names = [window.name for window in windows]
    if len(set(names)) < len(names):
        raise fail("schedule", names, "hold a name twice")
    return windows


def _window(wire: WindowWire, place: str, most: int, fail: Fail) -> Window:
    if not wire.name:
        raise fail(f"{place}.name", wire.name, "is empty")
    if not 1 <= wire.min_replicas <= most:
        raise fail(f"{place}.minReplicas", wire.min_replicas, f"is not between 1 and maxReplicas {most}")
    start, end = (_cron(f"{place}.{name}", text, fail) for name, text in (("start", wire.start), ("end", wire.end)))
    if start == end:
        raise fail(f"{place}.end", wire.end, "is the same as start")
    try:
        zone = ZoneInfo(wire.time_zone)
    except (ValueError, KeyError, OSError) as error:
        raise fail(f"{place}.timeZone", wire.time_zone, "is not a time zone such as Europe/Berlin") from error
    return Window(wire.name, start, end, zone, wire.min_replicas)


def _cron(field: str, text: str, fail: Fail) -> str:
    """Five fields; shorthands and `?` as in KEDA's trigger are written out."""
    spec = _SHORTHANDS.get(text.strip().lower(), text)
    fields = ["*" if part == "?" else part for part in spec.split()]
    if len(fields) != 5:
        raise fail(field, text, "is not five fields of cron: minute, hour, day of month, month, day of week")
    spec = " ".join(fields)
    if why := _why_not(spec):
        raise fail(field, text, why)
    return spec


@lru_cache(maxsize=1024)
def _why_not(spec: str) -> str:
    """What is wrong with five fields of cron; empty where they are right."""
    try:
        _times(spec, _SOME_DAY)
    except CronSimError as error:
        return f"is not a line of cron with times that come: {error}"
    except StopIteration:
        return "is a line of cron whose time never comes"
    return ""


def likely_mistakes(windows: Sequence[Window], least: int) -> tuple[str, ...]:
    """What is allowed and likely a mistake, in words for a person; `least` is the object's minReplicas."""
    found = []
    for window in windows:
        if window.replicas <= least:
            found.append(f"schedule {window.name}: minReplicas {window.replicas} is no more than minReplicas {least}")
        if _never_ends(window):
            found.append(f"schedule {window.name}: never ends, for at each time of its end it starts again")
    return tuple(found)


@lru_cache(maxsize=1024)
def _never_ends(window: Window) -> bool:
    return window.next_change(_times(window.start, _SOME_DAY)) is None


def scheduled(windows: tuple[Window, ...], wall: float) -> Scheduled | None:
    """What the windows ask for at `wall` (Unix seconds); None without windows. The highest of those that are open counts."""
    return _at_minute(windows, int(wall // 60)) if windows else None


@lru_cache(maxsize=4096)
def _at_minute(windows: tuple[Window, ...], minute: int) -> Scheduled:
    at = [(window, wall_clock(window.zone, 60.0 * minute)) for window in windows]
    opened = [(window, clock) for window, clock in at if window.is_open(clock)]
    if opened:
        window, clock = max(opened, key=lambda pair: (pair[0].replicas, pair[0].next_change(pair[1]) or _END))
        change = window.next_change(clock)
        return Scheduled(window.name, window.replicas, True, None if change is None else _said(change, window.zone))
    soon = [(window, window.next_change(clock)) for window, clock in at]
    window, change = min(soon, key=lambda pair: _unix(pair[1] or _END, pair[0].zone))
    return Scheduled(window.name, window.replicas, False, None if change is None else _said(change, window.zone))


_END: Final = datetime.datetime(9000, 1, 1)  # noqa: DTZ001


def wall_clock(zone: ZoneInfo, wall: float) -> datetime.datetime:
    """What the clocks of a zone show, without a zone. A clock that is put back stands still until it has caught up.

    So a window that opened at 02:30 does not close and open again when the hour comes twice; and the times of an hour that is
    left out have all come when it is over.
    """
    shown = datetime.datetime.fromtimestamp(wall, zone)
    if not shown.fold:
        return shown.replace(tzinfo=None)
    # The hour's second run: find the last minute of its first one.
    before = shown.replace(fold=0).utcoffset() or datetime.timedelta()
    back = before - (shown.utcoffset() or datetime.timedelta())
    first, second = int(wall - back.total_seconds()), int(wall)
    while second - first > 1:
        middle = (first + second) // 2
        if datetime.datetime.fromtimestamp(middle, zone).utcoffset() == before:
            first = middle
        else:
            second = middle
    return datetime.datetime.fromtimestamp(first, zone).replace(tzinfo=None)


def _times(spec: str, clock: datetime.datetime, *, back: bool = False) -> datetime.datetime:
    """The first time of a cron line after `clock` (`back`: the last one before it)."""
    return next(CronSim(spec, clock, reverse=back))


def _unix(clock: datetime.datetime, zone: ZoneInfo) -> float:
    return clock.replace(tzinfo=zone).timestamp()


def _said(clock: datetime.datetime, zone: ZoneInfo) -> str:
    return f"{clock:%Y-%m-%d %H:%M} {zone.key}"
