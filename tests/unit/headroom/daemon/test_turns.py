"""One at a time, callers by turns, with rests."""

import asyncio

from headroom.daemon.turns import Turns


async def had_turns(turns: Turns, callers: str) -> str:
    """Who had a turn when, of callers that asked in this order."""
    order: list[str] = []

    async def once(caller: str) -> None:
        async with turns.turn(caller):
            order.append(caller)
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for caller in callers:
            group.create_task(once(caller))
    return "".join(order)


async def test_who_asks_often_waits_for_those_who_ask_once() -> None:
    assert await had_turns(Turns(longest_rest_seconds=0.001), "aaaabc") == "aabcaa"


async def test_nobody_has_a_turn_beside_another() -> None:
    turns, now = Turns(longest_rest_seconds=0.001), 0

    async def once() -> None:
        nonlocal now
        async with turns.turn("a"):
            now += 1
            await asyncio.sleep(0)
            assert now == 1
            now -= 1

    await asyncio.gather(*(once() for _ in range(5)))


async def test_who_goes_before_his_turn_keeps_nobody_waiting() -> None:
    turns, entered, leave = Turns(longest_rest_seconds=0.001), asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        async with turns.turn("a"):
            entered.set()
            await leave.wait()

    async def wait() -> None:
        async with turns.turn("b"):
            pass

    holding = asyncio.create_task(hold())
    await entered.wait()
    gone, stays = asyncio.create_task(wait()), asyncio.create_task(wait())
    await asyncio.sleep(0)
    gone.cancel()
    leave.set()
    await asyncio.wait_for(asyncio.gather(holding, stays), 5)


async def test_all_rest_at_least_so_long() -> None:
    clock = asyncio.get_running_loop().time
    turns, began = Turns(least_rest_seconds=0.02, longest_rest_seconds=0.02), clock()
    await had_turns(turns, "abcab")
    assert clock() - began >= 4 * 0.02 - 0.005  # never less, however slow the machine
