"""A replica's prefix cache: blocks of prompts, shared by the requests that begin alike, the least recently used first out."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

BLOCK_TOKENS: Final = 512
"""Prompt tokens per hash of a request's prefix."""


class PrefixCache:
    """Blocks in use are counted once however many requests use them; the others stay while the KV room has place for them."""

    __slots__ = ("_free", "_users")

    def __init__(self) -> None:
        self._users: dict[int, int] = {}
        """Block in use -> requests that use it."""
        self._free: OrderedDict[int, None] = OrderedDict()
        """Blocks that nobody uses, oldest first."""

    def hits(self, blocks: Sequence[int]) -> int:
        """How many leading blocks are here."""
        count = 0
        for block in blocks:
            if block not in self._users and block not in self._free:
                break
            count += 1
        return count

    def hold(self, blocks: Sequence[int]) -> int:
        """Use blocks that are here; returns how many were used by nobody before: so much more memory is taken."""
        more = 0
        for block in blocks:
            users = self._users.get(block, 0)
            if not users:
                self._free.pop(block, None)
                more += 1
            self._users[block] = users + 1
        return more

    def drop(self, blocks: Sequence[int]) -> int:
        """Use blocks no more; returns how many nobody uses now."""
        fewer = 0
        for block in blocks:
            users = self._users[block] - 1
            if users:
                self._users[block] = users
            else:
                del self._users[block]
                self._free[block] = None
                fewer += 1
        return fewer

    def trim(self, free_tokens: int) -> None:
        """Forget the oldest blocks that no memory is left for."""
        room = max(free_tokens // BLOCK_TOKENS, 0)
        free = self._free
        while len(free) > room:
            free.popitem(last=False)

    def __len__(self) -> int:
        return len(self._users) + len(self._free)
