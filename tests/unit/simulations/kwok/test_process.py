"""Components of a simulated cluster: what is said when they fail, and that none outlives its owner."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from simulations.kwok.process import Component, ComponentError, Reaper, free_port
from tests.waiting import until_blocking

SLEEPER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]


@pytest.fixture
def reaper(tmp_path: Path) -> Iterator[Reaper]:
    folder = tmp_path / "cluster"
    folder.mkdir()
    reaper = Reaper(folder)
    yield reaper
    reaper.close()


def component(reaper: Reaper, tmp_path: Path, command: list[str], **options: object) -> Component:
    return Component("thing", command, log=tmp_path / "thing.log", reaper=reaper, **options)  # type: ignore[arg-type]


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_one_that_ends_at_once_is_reported_with_the_end_of_its_log(reaper: Reaper, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('flag --tea is unknown')"]
    broken = component(reaper, tmp_path, command, ready=lambda: False)
    with pytest.raises(ComponentError, match=r"(?s)ended with status 1.*flag --tea is unknown"):
        broken.start()


def test_one_that_is_never_ready_is_ended_and_reported(reaper: Reaper, tmp_path: Path) -> None:
    silent = component(reaper, tmp_path, SLEEPER, ready=lambda: False)
    with pytest.raises(ComponentError, match=r"thing is not ready after 1 s; its log ends:\n---"):
        silent.start(timeout_seconds=1.0)
    assert not silent.running


def test_a_program_that_is_not_there(reaper: Reaper, tmp_path: Path) -> None:
    with pytest.raises(ComponentError, match="/no/such/program: No such file"):
        component(reaper, tmp_path, ["/no/such/program"]).start()


def test_kill_and_restart_keep_command_and_log(reaper: Reaper, tmp_path: Path) -> None:
    thing: Component = component(reaper, tmp_path, SLEEPER, ready=lambda: thing.tail(1) == "up")
    thing.start()
    first = thing.pid
    thing.kill()
    assert not thing.running
    thing.start()
    assert thing.pid not in (None, first)
    thing.restart()
    assert thing.log.read_text().count("up\n") == 3
    with pytest.raises(ComponentError, match="runs already"):
        thing.start()


def test_closing_the_reaper_ends_what_still_runs_and_removes_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "cluster"
    folder.mkdir()
    reaper = Reaper(folder)
    thing = component(reaper, tmp_path, SLEEPER)
    thing.start()
    pid = thing.pid
    assert pid is not None
    reaper.close()
    assert thing.stop() == -signal.SIGTERM
    assert not folder.exists()


OWNER = """
import sys, time
from pathlib import Path
from simulations.kwok.process import Component, Reaper
folder = Path(sys.argv[1])
thing = Component("thing", [sys.executable, "-c", "import time; time.sleep(600)"], log=folder / "log", reaper=Reaper(folder))
thing.start()
print(thing.pid, flush=True)
time.sleep(600)
"""


def test_components_end_with_an_owner_that_was_killed(tmp_path: Path) -> None:
    folder = tmp_path / "cluster"
    folder.mkdir()
    with subprocess.Popen([sys.executable, "-c", OWNER, str(folder)], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        assert alive(pid)
        os.kill(owner.pid, signal.SIGKILL)
    until_blocking(lambda: not alive(pid))
    until_blocking(lambda: not folder.exists())


def test_free_ports_are_below_those_of_outgoing_connections() -> None:
    lowest_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(free_port() < lowest_outgoing for _ in range(100))


def test_a_port_is_given_once_and_not_while_any_address_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A component may start long after its port was chosen, and listen on all addresses."""
    first = free_port()
    monkeypatch.setattr("simulations.kwok.process._PORTS", (first, first + 4))
    with contextlib.ExitStack() as held:
        for port in range(first + 1, first + 5):
            listener = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                listener.bind(("127.0.0.2", port))
        with pytest.raises(ComponentError, match="no free port"):
            free_port()
