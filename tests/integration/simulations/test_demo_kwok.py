"""`headroom demo --on kwok`: the whole chain on a real control plane, down to the report."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.timeout(400)
def test_the_short_demo_places_everything_scales_and_reports(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "headroom", "demo", "--on", "kwok", "--deployments", "20", "--seconds", "40"]
    done = subprocess.run([*command, "--out", str(tmp_path)], capture_output=True, text=True, timeout=380, check=False)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "report.html").read_text()
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    data = json.loads(found[1])
    headroom = data["placement"]["methods"][0]
    assert headroom["running"] == headroom["pods"]
    sides = data["story"]["sides"]
    assert [side["name"] for side in sides] == ["Headroom", "Whole cards + HPA"]
    for side in sides:
        assert len(side["cards"]) == len(data["story"]["times"])
        assert any(len({*service["ready"]}) > 1 for service in side["services"]), "nothing was scaled"
    shared: dict[tuple[int, int], list[Any]] = {}
    for node, card, _, mib, start, _, end, pod in sides[0]["shares"]:
        shared.setdefault((node, card), []).append((start, end, mib, pod))
    for (node, card), holds in shared.items():
        for moment in {start for start, *_ in holds}:
            held = sum(mib for start, end, mib, _ in holds if start <= moment and (end is None or end > moment))
            assert held <= data["story"]["nodes"][node]["cards"][card]
