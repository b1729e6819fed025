"""`headroom top`: every card in a line, in terminals of any width, asked of the extender that decides."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from aiohttp import web
from click.testing import CliRunner

from headroom.commands.ask.top import top
from headroom.commands.ask.top_view import picture


def card(
    index: int, *pods: tuple[str, int], usable: int = 80, used: float | None = None, busy: float | None = None
) -> dict[str, Any]:
    declared = sum(gib for _, gib in pods)
    return {
        "id": f"GPU-{index}", "index": index, "model": "NVIDIA-A100-SXM4-80GB", "usable_mib": usable * 1024,
        "declared_mib": declared * 1024, "used_mib": None if used is None else round(used * 1024), "foreign_mib": 0,
        "free_mib": (usable - declared) * 1024, "busy_ratio": busy,
        "pods": [{"pod": pod, "share_mib": gib * 1024, "used_mib": None, "state": "bound"} for pod, gib in pods],
    }  # fmt: skip


def page(*nodes: tuple[str, list[dict[str, Any]]], **rest: Any) -> dict[str, Any]:
    found = [{"node": name, "sharing": "none", "schedulable": True, "cards": cards} for name, cards in nodes]
    return {
        "nodes": found,
        "measured": "fresh for 3 cards",
        "busy": "known of 3 cards",
        "waiting": {},
        "refused_pods": [],
    } | rest


FLEET = page(
    (
        "gpu-a",
        [
            card(0, ("models/llama", 40), ("ai/qwen", 20), used=52.0, busy=0.73),
            card(1, ("models/mistral", 20), used=30.0, busy=0.05),
        ],
    ),
    ("gpu-b", [card(0)]),
)


def shown(fleet: dict[str, Any], columns: int, **more: Any) -> list[str]:
    return [click.unstyle(line) for line in picture(fleet, columns=columns, **more)]


def test_a_wide_terminal() -> None:
    assert shown(FLEET, 130) == [
        "3 cards on 2 nodes, 240.0 GiB: 80.0 GiB declared by 3 pods (33 %), 82.0 GiB used on 2 of them, busy 39 %, 1 without a pod",
        "NODE   CARD  MODEL                                  DECLARED  USED  FREE  BUSY  PODS, GiB",
        "gpu-a  0     A100-SXM4-80GB  █████████████▒▒·····  60.0/80.0  52.0  20.0  73 %  models/llama 40.0, ai/qwen 20.0",
        "       1     A100-SXM4-80GB  █████!!!············  20.0/80.0  30.0  60.0   5 %  models/mistral 20.0",
        "gpu-b  0     A100-SXM4-80GB  ····················   0.0/80.0     -  80.0     -",
        "█ declared and used  ▒ declared, not used  ! used beyond that  · free",
    ]


@pytest.mark.parametrize("columns", [40, 60, 80, 99, 100, 140, 300])
def test_no_line_is_longer_than_the_terminal(columns: int) -> None:
    crowd = [(f"a-long-namespace/a-pod-with-a-very-long-name-{at}", 5) for at in range(12)]
    fleet = page(("node-with-a-name.that-is-quite.long.example.com", [card(0, *crowd, used=3.0, busy=1.0), card(1)]))
    lines = shown(fleet, columns)
    assert max(map(len, lines)) <= columns
    assert any("0" in line and "100 %" in line for line in lines)


def test_a_narrow_terminal_names_as_many_pods_as_fit() -> None:
    crowd = [(f"models/pod-{at}", 10) for at in range(6)]
    (line,) = [line for line in shown(page(("gpu-a", [card(0, *crowd)])), 80) if "gpu-a" in line]
    assert line.endswith("models/pod-0 10.0 +5")
    assert "A100" not in line


def test_what_cannot_be_used_waits_or_is_not_known_is_said() -> None:
    request = {"count": 1, "mode": "pinned", "vram_mib": 300 * 1024}
    fleet = page(
        ("gpu-a", [card(0)]),
        waiting={"waiting": 2, "refused": 8}, measured="not read: what pods declare counts", busy="not read: no Prometheus is set",
        refused_pods=[{"pod": f"ai/big-{at}", "priority": 0, "request": request} for at in range(8)],
        problems={"gpu-z": "headroom.dev/cards: is not JSON"}, this_extender="is a standby",
    )  # fmt: skip
    fleet["nodes"][0]["schedulable"] = False
    text = "\n".join(shown(fleet, 200))
    assert "gpu-a (cordoned)" in text
    assert "pods that wait: 2 waiting, 8 refused" in text
    assert "ai/big-0 fits nowhere: 300.0 GiB of 1 card (pinned mode)" in text
    assert "and 3 more" in text
    assert "memory in use: not read: what pods declare counts" in text
    assert "node gpu-z: headroom.dev/cards: is not JSON" in text
    assert "does not decide: is a standby" in text


def test_a_terminal_that_is_full_says_how_many_cards_are_left_out() -> None:
    fleet = page(*((f"gpu-{at}", [card(number) for number in range(8)]) for at in range(10)))
    lines = shown(fleet, 120, rows=24)
    assert len(lines) <= 23
    left_out = [line for line in lines if "more cards" in line]
    assert left_out == [f"and {80 - (len(lines) - 4)} more cards (--once shows all, --node one node's)"]


def test_no_card_at_all_and_no_unicode() -> None:
    assert "no card is known" in shown(page(), 80)
    text = "\n".join(shown(FLEET, 80, unicode=False))
    assert text.isascii()
    assert "##" in text


def test_a_thousand_cards_are_drawn_in_no_time() -> None:
    """Not a measurement: the budget is 0.3 s of processor time for a whole refresh (see docs/top.md)."""
    fleet = page(
        *(
            (f"gpu-{at}", [card(number, ("models/llama", 40), used=30.0, busy=0.5) for number in range(8)])
            for at in range(125)
        )
    )
    raw, began = json.dumps(fleet), time.process_time()
    assert len(shown(json.loads(raw), 140)) == 1003
    assert time.process_time() - began < 3.0


class Proxy:
    """An API server in a thread: a lease, and a proxy to the extender that holds it."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, Any]] = [(200, FLEET)]
        self.asked: list[str] = []
        self.port = 0

    async def _handle(self, http: web.Request) -> web.Response:
        if "/leases/" in http.path:
            return web.json_response({"spec": {"holderIdentity": "headroom-scheduler-abc_8901_1f2e"}})
        self.asked.append(http.path_qs)
        status, answer = self.answers[0] if len(self.answers) == 1 else self.answers.pop(0)
        return web.json_response(answer, status=status)

    def run(self, started: threading.Event, ended: threading.Event) -> None:
        async def serve() -> None:
            app = web.Application()
            app.router.add_route("*", "/{path:.*}", self._handle)
            runner = web.AppRunner(app)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.port = runner.addresses[0][1]
            started.set()
            await asyncio.to_thread(ended.wait)
            await runner.cleanup()

        asyncio.run(serve())


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Proxy]:
    found, started, ended = Proxy(), threading.Event(), threading.Event()
    thread = threading.Thread(target=found.run, args=(started, ended))
    thread.start()
    started.wait()
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [{"name": "k", "cluster": {"server": f"http://127.0.0.1:{found.port}"}}],
        "users": [{"name": "u", "user": {}}],
    }
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
    yield found
    ended.set()
    thread.join()


def call(tmp_path: Path, *flags: str) -> str:
    result = CliRunner().invoke(top, ["--kubeconfig", str(tmp_path / "kubeconfig"), *flags], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_it_asks_the_holder_of_the_lease_once(proxy: Proxy, tmp_path: Path) -> None:
    assert "models/llama" in call(tmp_path, "--once")
    assert proxy.asked == ["/api/v1/namespaces/headroom-system/pods/headroom-scheduler-abc:8901/proxy/v1/cards"]


def test_one_node_and_json(proxy: Proxy, tmp_path: Path) -> None:
    assert json.loads(call(tmp_path, "--node", "gpu-a", "-o", "json")) == FLEET
    assert proxy.asked[0].endswith("/proxy/v1/cards?node=gpu-a")


def test_watching_goes_on_over_an_extender_that_is_away(
    proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy.answers = [(200, FLEET), (503, {"Error": "not ready"}), (200, FLEET)]
    naps: list[float] = []

    async def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("headroom.commands.ask.top.pause", nap)
    result = CliRunner().invoke(top, ["--kubeconfig", str(tmp_path / "kubeconfig"), "--watch", "--every", "2"])
    assert result.exit_code == 0
    assert result.stdout.count("models/llama") == 2
    assert "not ready; asked again in 2 s" in result.stderr
    assert naps == [2.0, 2.0, 2.0]
