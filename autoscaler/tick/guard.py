"""The one place where the autoscaler catches what nobody foresaw: it costs one object its tick, or one tick, never the daemon."""

from collections.abc import Awaitable
from typing import TypeVar

from prometheus_client import Counter

from headroom.daemon.logs import get_logger

T = TypeVar("T")

log = get_logger(__name__)


async def guarded(work: Awaitable[T], failures: Counter, where: str, **fields: str) -> T | None:
    """Await `work`; None and a logged traceback when it raises."""
    try:
        return await work
    except Exception:
        failures.labels(where).inc()
        log.exception("unforeseen_failure", where=where, **fields)
        return None
