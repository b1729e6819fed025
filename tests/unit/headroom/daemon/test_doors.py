"""One port, two doors: who calls from this machine is served on the daemon's loop, all others in a thread of their own."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from headroom.daemon.doors import Bridge, kept_for, two_doors
from headroom.daemon.http import Limits, Question, Reply, Site
from tests.waiting import pass_time

HERE, STRANGER = "127.0.0.1", "127.0.0.6"  # from there, a service mesh hands over the calls of other pods


async def which_thread(_: Question) -> Reply:
    return Reply(threading.current_thread().name.encode())


async def fails(_: Question) -> Reply:
    raise RuntimeError("an error nobody foresaw")


def here() -> Site:
    return Site({("POST", "/verb"): which_thread, ("GET", "/page"): which_thread})


def elsewhere(bridge: Bridge) -> Site:
    pages = {
        ("GET", "/page"): bridge.page(which_thread),
        ("GET", "/own"): which_thread,
        ("GET", "/fails"): bridge.page(fails),
    }
    return Site(pages, limits=Limits(connections_per_address=50))


@contextlib.asynccontextmanager
async def caller(source: str) -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(local_addr=(source, 0), limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=5)) as session:
        yield session


async def ask(port: int, source: str, method: str, path: str) -> tuple[int, str]:
    async with caller(source) as session, session.request(method, f"http://127.0.0.1:{port}{path}") as answer:
        return answer.status, await answer.text()


LOOP = threading.main_thread().name


@pytest.mark.parametrize(
    ("source", "method", "path", "status", "thread"),
    [
        pytest.param(HERE, "POST", "/verb", 200, LOOP, id="a verb from here"),
        pytest.param(HERE, "GET", "/page", 200, LOOP, id="a page from here"),
        pytest.param(STRANGER, "POST", "/verb", 404, "", id="a verb from elsewhere"),
        pytest.param(STRANGER, "GET", "/page", 200, LOOP, id="a page from elsewhere is answered by the daemon's loop"),
        pytest.param(STRANGER, "GET", "/own", 200, "pages", id="the asking is done in a thread"),
        pytest.param(STRANGER, "GET", "/fails", 500, "", id="an error in a page"),
    ],
)
async def test_who_is_served_where(source: Any, method: str, path: str, status: int, thread: Any) -> None:
    async with two_doors(here(), elsewhere, "127.0.0.1", 0) as port:
        for _ in range(2):
            found, text = await ask(port, source, method, path)
            assert found == status
            assert not thread or text == thread


async def test_without_a_door_for_this_machine_all_use_the_other() -> None:
    async with two_doors(None, elsewhere, "127.0.0.1", 0) as port:
        assert await ask(port, HERE, "GET", "/own") == (200, "pages")
        assert (await ask(port, HERE, "POST", "/verb"))[0] == 404


async def test_strangers_are_read_while_the_loop_is_busy_and_answered_when_it_is_not() -> None:
    async with two_doors(here(), elsewhere, "127.0.0.1", 0) as port, caller(STRANGER) as session:
        url = f"http://127.0.0.1:{port}"

        def blocking() -> tuple[int, bool]:
            """Ask both kinds of page from another thread while this one's loop stands still."""

            async def ask_both() -> tuple[int, bool]:
                async with caller(STRANGER) as session:
                    async with session.get(f"{url}/own") as own:
                        status = own.status
                    try:
                        async with asyncio.timeout(0.3):
                            await session.get(f"{url}/page")
                    except TimeoutError:
                        return status, False
                    return status, True

            return asyncio.run(ask_both())

        found: list[tuple[int, bool]] = []
        thread = threading.Thread(target=lambda: found.append(blocking()))
        thread.start()
        thread.join()  # the loop stands still until both were asked
        assert found == [(200, False)]
        async with session.get(f"{url}/page") as answer:
            assert answer.status == 200


async def test_what_is_asked_by_many_at_once_is_answered_to_all() -> None:
    async with two_doors(here(), elsewhere, "127.0.0.1", 0) as port, caller(STRANGER) as session:

        async def once() -> int:
            async with session.get(f"http://127.0.0.1:{port}/page") as answer:
                return answer.status

        assert await asyncio.gather(*(once() for _ in range(40))) == [200] * 40


async def test_after_the_end_the_port_is_free_and_the_thread_is_gone() -> None:
    async with two_doors(here(), elsewhere, "127.0.0.1", 0) as port:
        assert any(thread.name == "pages" for thread in threading.enumerate())
    assert not any(thread.name == "pages" for thread in threading.enumerate())
    async with two_doors(here(), elsewhere, "127.0.0.1", port):
        pass


async def test_a_port_that_is_taken_is_an_error() -> None:
    async with two_doors(here(), elsewhere, "127.0.0.1", 0) as port:
        with pytest.raises(OSError, match="in use"):
            async with two_doors(here(), elsewhere, "127.0.0.1", port):
                pass


async def test_an_answer_is_kept_for_a_while() -> None:
    count = 0

    async def counting(_: Question) -> Reply:
        nonlocal count
        count += 1
        return Reply(b"%d" % count)

    page, question = kept_for(0.1, counting), Question({}, b"", "", "")
    assert [(await page(question)).body for _ in range(3)] == [b"1"] * 3
    await pass_time(0.15)
    assert (await page(question)).body == b"2"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_this_machine_has_two_addresses(host: str) -> None:
    """s15."""
    async with two_doors(here(), elsewhere, host, 0) as port, aiohttp.ClientSession() as session:
        where = f"[{host}]" if ":" in host else host
        async with session.post(f"http://{where}:{port}/verb") as answer:
            assert (answer.status, await answer.text()) == (200, LOOP)
