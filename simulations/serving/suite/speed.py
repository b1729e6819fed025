"""How long a week of virtual time takes: one of the goals, measured on a part of it and kept beside the runs."""

import json
import time
from pathlib import Path
from typing import Final

from simulations.serving.arena import run
from simulations.serving.laws.catalogue import LAWS
from simulations.serving.suite.scenarios import Load, pattern

RATE: Final = 20.0
"""Requests per second."""
HOURS: Final = 6.0
WEEK_HOURS: Final = 168.0
ALLOWED_SECONDS: Final = 600.0
_FILE: Final = "speed.json"


def week_seconds(out: Path) -> float | None:
    """CPU seconds of a week, as far as they were measured into this folder."""
    try:
        return float(json.loads(out.joinpath(_FILE).read_text("utf-8"))["week_seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def measure(out: Path, traces: Path, hours: float = HOURS) -> float:
    """Run Headroom on the first `hours` of such a week; the CPU seconds of this process stand for the whole."""
    load = Load("a week", "days", pattern("week", RATE, hours))
    workload, conditions, entry = load.workload(1, traces), load.conditions(), LAWS["headroom"]
    started = time.process_time()
    run([workload], entry, entry.defaults, conditions, seed=1)
    seconds = (time.process_time() - started) * WEEK_HOURS * 3600 * RATE / max(len(workload.trace), 1)
    out.joinpath(_FILE).write_text(
        json.dumps({"week_seconds": round(seconds, 1), "requests": len(workload.trace)}), "utf-8"
    )
    return seconds
