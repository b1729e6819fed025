"""A ledger of one node."""

import pytest

from scheduler.ledger.fleet import Fleet
from scheduler.ledger.ledger import Ledger
from tests.unit.scheduler.ledger.events import whole


@pytest.fixture
def ledger() -> Ledger:
    made = Ledger(Fleet())
    made.apply_node(whole())
    return made
