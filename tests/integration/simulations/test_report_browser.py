"""The demo's report in a real browser: no errors on the console, the figures and pictures are there, in light and in dark."""

import html
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--window-size=1366,768",
)
pytestmark = pytest.mark.timeout(500)


def browse(page: Path, profile: Path, *more: str) -> tuple[str, list[str]]:
    """The page's DOM after its script ran, and what it wrote to the console."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    assert browser, "these tests need Chromium (make prerequisites)"
    done = subprocess.run(
        [browser, *_FLAGS, f"--user-data-dir={profile}", *more, "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short demo's report."""
    out = tmp_path_factory.mktemp("demo")
    command = [sys.executable, "-m", "headroom", "demo", "--out", str(out), "--hours", "0.15", "--deployments", "30"]
    subprocess.run(command, check=True, capture_output=True, timeout=400)
    return out / "report.html"


def test_the_console_check_sees_an_error(tmp_path: Path) -> None:
    page = tmp_path / "broken.html"
    page.write_text("<!doctype html><script>nothing.here()</script>")
    _, console = browse(page, tmp_path / "profile")
    assert console


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_draws_without_a_word_on_the_console(report: Path, tmp_path: Path, scheme: str) -> None:
    dark = ("--blink-settings=preferredColorScheme=0",) if scheme == "dark" else ()
    dom, console = browse(report, tmp_path / "profile", *dark)
    assert console == []
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', dom, re.DOTALL)[1])  # type: ignore[index]
    cards = sum(len(node["cards"]) for chapter in ("story", "placement") for node in data[chapter]["nodes"])
    frames = dom.count('stroke="var(--card-line)"')
    assert frames == 2 * cards, "each fleet is drawn twice: Headroom and whole cards"
    assert dom.count('class="chart"') == 3 + 4 * len(data["story"]["services"])
    assert "NaN" not in dom


_POINT_AND_SLIDE = """<script>
const cards = [...document.querySelectorAll("#story-fleet g")];
const held = cards.find((card) => card.querySelector(":scope > g > rect"));
held.querySelector(':scope > rect[fill="transparent"]').dispatchEvent(new PointerEvent("pointermove", { clientX: 5, clientY: 5 }));
document.body.dataset.tip = document.querySelector(".tip").textContent;
const slider = document.querySelector("#story-slider input");
slider.value = 0;
slider.dispatchEvent(new Event("input"));
document.body.dataset.moment = document.querySelector("#story-slider output").textContent;
</script>"""


def test_cards_say_who_holds_them_and_the_slider_moves_the_fleet(report: Path, tmp_path: Path) -> None:
    page = tmp_path / "touched.html"
    page.write_text(report.read_text().replace("</body>", _POINT_AND_SLIDE + "</body>"))
    dom, console = browse(page, tmp_path / "profile")
    assert console == []
    tip = re.search(r'data-tip="([^"]*)"', dom)
    assert tip is not None
    assert re.search(r"card \d: .*(free|whole card held)\n\S+: [\d.]+ GiB", tip[1]), tip[1]
    assert re.search(r'data-moment="0 (s|min)"', dom)


_TOUCH_AND_KEYS = """<script>
const said = () => document.querySelector(".tip").textContent;
const press = (element, key) => element.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
const fleet = document.querySelector("#story-fleet .fleet");
press(fleet, "ArrowRight");
document.body.dataset.first = said();
press(fleet, "ArrowRight");
document.body.dataset.second = said();
const chart = document.querySelector("#story-totals svg");
press(chart, "End");
document.body.dataset.chart = said();
press(document.body, "Escape");
document.body.dataset.after = document.querySelector(".tip").style.display;
const card = document.querySelector('#placement-fleet rect[fill="transparent"]');
card.dispatchEvent(new PointerEvent("pointerdown", { pointerType: "touch", clientX: 5, clientY: 5, bubbles: true }));
document.body.dataset.touched = said();
</script>"""


def test_tips_come_by_keyboard_and_by_touch(report: Path, tmp_path: Path) -> None:
    page = tmp_path / "keys.html"
    page.write_text(report.read_text().replace("</body>", _TOUCH_AND_KEYS + "</body>"))
    dom, console = browse(page, tmp_path / "profile")
    assert console == []
    said = {key: html.unescape(value) for key, value in re.findall(r'data-(\w+)="([^"]*)"', dom)}
    assert "card 0: " in said["first"]
    assert "card 1: " in said["second"]
    assert re.match(r"(second|minute) [\d.]+\n", said["chart"])
    assert said["after"] == "none"
    assert "card 0: " in said["touched"]


_MEASURE = """<script>document.body.dataset.width = document.documentElement.scrollWidth;
document.body.dataset.height = document.documentElement.scrollHeight;
document.body.dataset.open = document.querySelectorAll("details[open]").length;</script>"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_small_screen_cuts_nothing_off(report: Path, tmp_path: Path, scheme: str) -> None:
    page = tmp_path / "narrow.html"
    # Chromium's own window is never that narrow; a frame is.
    (tmp_path / "page.html").write_text(report.read_text().replace("</body>", _MEASURE + "</body>"))
    page.write_text(
        '<!doctype html><iframe src="page.html" style="width:420px;height:900px;border:0"></iframe><script>'
        'document.querySelector("iframe").onload = (event) => Object.assign(document.body.dataset,'
        " event.target.contentDocument.body.dataset);</script>"
    )
    dark = ("--blink-settings=preferredColorScheme=0",) if scheme == "dark" else ()
    dom, _ = browse(page, tmp_path / "profile", "--allow-file-access-from-files", *dark)
    said = dict(re.findall(r'data-(\w+)="(\d+)"', dom))
    assert int(said["width"]) <= 420
    assert int(said["open"]) == 0, "services are folded"
    assert int(said["height"]) < 12_000


def test_bars_and_table_say_the_same(report: Path) -> None:
    text = report.read_text()
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])  # type: ignore[index]
    row = re.search(r"<tr><td>Replicas running</td>(.*?)</tr>", text)
    assert row is not None
    assert [int(cell) for cell in re.findall(r">(\d+)</td>", row[1])] == [
        method["running"] for method in data["placement"]["methods"]
    ]


def test_the_end_of_the_load_is_not_drawn_as_an_outage(report: Path) -> None:
    data = json.loads(
        re.search(r'<script type="application/json" id="data">(.*?)</script>', report.read_text(), re.DOTALL)[1]  # type: ignore[index]
    )
    assert data["story"]["demand"][-1] > 0
    assert {len(side["cards"]) for side in data["story"]["sides"]} == {len(data["story"]["times"])}


def test_each_service_has_a_colour_of_its_own(report: Path) -> None:
    data = json.loads(
        re.search(r'<script type="application/json" id="data">(.*?)</script>', report.read_text(), re.DOTALL)[1]  # type: ignore[index]
    )
    colours = [(service["model"], service["shade"]) for service in data["story"]["services"]]
    assert len(set(colours)) == len(colours)
    assert max(model for model, _ in colours) < 14


def test_the_headline_figures_are_in_the_text_itself(report: Path, tmp_path: Path) -> None:
    text = report.read_text()
    for key in ("card-hours", "cost", "attainment", "co2"):
        figure = re.search(rf'data-key="{key}".*?class="value">([^<]+)', text, re.DOTALL)
        assert figure, key
        assert re.search(r"\d", figure[1]), key
    assert "Whole cards + HPA" in text


def test_the_page_needs_nothing_but_itself(report: Path) -> None:
    text = report.read_text()
    assert not re.findall(r'(?:src|href)="(?!#|data:)[^"]*"', text)
    assert not re.findall(r"@import|url\((?!#)", text)
