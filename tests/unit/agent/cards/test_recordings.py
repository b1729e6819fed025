"""Recorded cards read as the agent reads cards."""

from typing import Any

from agent.cards.inventory import Inventory
from agent.cards.scripted import ScriptedReader, load_script
from tests.paths import FIXTURES


def test_an_h200_with_two_processes() -> None:
    """The driver's reserve is not part of what is used; total = reserved + used + free."""
    reading = ScriptedReader(load_script(FIXTURES / "cards" / "h200.json")).read(0.0)
    card: Any  # a recording without a missing field
    (card,) = reading.cards
    assert card.memory_total_bytes == card.memory_reserved_bytes + card.memory_used_bytes + card.memory_free_bytes
    assert [process.memory_used_bytes / 2**20 for process in card.processes] == [5120, 10240]
    assert sum(process.memory_used_bytes for process in card.processes) == card.memory_used_bytes
    (published,) = Inventory().update(reading, {})
    assert (published.vram_mib, published.reserve_mib, published.usable_mib) == (143771, 616, 143155)
