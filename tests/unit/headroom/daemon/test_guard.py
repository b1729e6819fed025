"""The guard: errors nobody foresaw are counted and logged, and the work goes on."""

import asyncio

import pytest

from headroom.daemon.guard import Guard


async def test_work_that_raises_is_counted_and_gives_none() -> None:
    counted: list[str] = []

    async def work() -> int:
        raise ZeroDivisionError

    assert await Guard(counted.append).run("tick", work()) is None
    assert counted == ["tick"]


async def test_work_that_ends_well_gives_its_answer_and_is_not_counted() -> None:
    counted: list[str] = []

    async def work() -> int:
        return 7

    assert await Guard(counted.append).run("tick", work()) == 7
    assert counted == []


async def test_a_task_starts_again_after_pauses_that_grow() -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 5:
            raise asyncio.CancelledError

    async def work() -> None:
        raise ValueError("nobody foresaw this")

    counted: list[str] = []
    with pytest.raises(asyncio.CancelledError):
        await Guard(counted.append, sleep=sleep).keep("watch", work)
    assert counted == ["watch"] * 5
    assert pauses[4] > 4 * pauses[0]


async def test_being_cancelled_is_no_failure() -> None:
    counted: list[str] = []

    async def work() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await Guard(counted.append).run("tick", work())
    assert counted == []


def test_a_call_that_raises_is_counted_and_tells_so() -> None:
    counted: list[str] = []
    guard = Guard(counted.append)

    def fail() -> None:
        raise ZeroDivisionError

    assert not guard.attempt("effect", fail)
    assert guard.attempt("effect", lambda: None)
    assert counted == ["effect"]
    with pytest.raises(KeyboardInterrupt):
        guard.attempt("effect", _interrupt)


def _interrupt() -> None:
    raise KeyboardInterrupt
