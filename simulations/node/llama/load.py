"""Load for a server of OpenAI's kind: so many requests at a time, each on a connection of its own, all of them counted."""

import json
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

_TIMEOUT_SECONDS: Final = 120.0
_PROMPT: Final = "Tell me, in one sentence, why request number {number} had to wait."


@dataclass
class Counts:
    """What became of requests."""

    answered: int = 0
    tokens: int = 0
    lost: list[str] = field(default_factory=list)
    """What was said of each request that got no answer."""
    seconds: list[float] = field(default_factory=list)
    """How long each answer took."""


class Load:
    """Keeps `at_once` requests going until the end of the context; change it at any time."""

    def __init__(
        self, url: str, network: Callable[[], AbstractContextManager[None]], *, at_once: int, tokens: int = 24
    ) -> None:
        """`url` is that of the Service; `network` is entered to connect."""
        self.counts = Counts()
        self.at_once = at_once
        self._url, self._network, self._tokens = f"{url}/v1/chat/completions", network, tokens
        self._over, self._lock = threading.Event(), threading.Lock()
        self._number = 0
        self._threads: list[threading.Thread] = []
        self._keeper = threading.Thread(target=self._keep)

    def __enter__(self) -> Self:
        self._keeper.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._keeper.join()
        for thread in self._threads:
            thread.join()

    def _keep(self) -> None:
        while not self._over.wait(0.05):
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            while len(self._threads) < self.at_once:
                self._number += 1
                thread = threading.Thread(target=self._ask, args=(self._number,))
                self._threads.append(thread)
                thread.start()

    def _ask(self, number: int) -> None:
        body = {
            "messages": [{"role": "user", "content": _PROMPT.format(number=number)}],
            "max_tokens": self._tokens,
            "seed": number,
        }
        request = urllib.request.Request(
            self._url, data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
        )
        began = time.monotonic()
        try:
            with self._network(), urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as reply:
                answer: dict[str, Any] = json.load(reply)
            tokens = int(answer["usage"]["completion_tokens"])
        except (OSError, ValueError, KeyError) as error:
            with self._lock:
                self.counts.lost.append(f"request {number} after {time.monotonic() - began:.1f} s: {error!r}")
            return
        with self._lock:
            self.counts.answered += 1
            self.counts.tokens += tokens
            self.counts.seconds.append(time.monotonic() - began)
