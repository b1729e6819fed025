"""An agent on node n1."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.agent.world import World, world_at


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with world_at(tmp_path) as one:
        yield one
