"""What holds for all tests: Hypothesis' profiles, and the markers of tests that need more than Python.

Hypothesis: the same examples in every run, so that a red run is red again; `make fuzz` draws fresh ones, many or few of them.
"""

import logging
import os
from collections.abc import Iterator
from logging.handlers import QueueHandler
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "fixed", derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(
    "fresh", deadline=None, max_examples=2000, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))

REAL: Final = {
    "integration": (pytest.mark.integration, 240),
    "node": (pytest.mark.node, 240),
    "image": (pytest.mark.node, 300),
    "engine": (pytest.mark.node, 900),
}
"""Folders whose tests need real components: the marker that says so, and the seconds that a test may take."""


@pytest.fixture(autouse=True)
def no_log_left_open() -> Iterator[None]:
    """A command that a test runs in this process sets up logs that go to the test's own standard error, which ends with the test."""
    yield
    root = logging.getLogger()
    root.handlers[:] = [handler for handler in root.handlers if not isinstance(handler, QueueHandler)]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is in these folders; a test that states a time of its own keeps it."""
    for item in items:
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        if folder in REAL:
            marker, seconds = REAL[folder]
            item.add_marker(marker)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(seconds))
