"""Structured logs: a constant event name and fields; JSON in pods, readable on a terminal.

Lines go to standard error through a bounded queue and a thread of their own, so that a blocked log sink cannot stall a daemon.
"""

import atexit
import logging
import logging.handlers
import queue
import sys
from typing import Any

import structlog

_QUEUE_LINES = 10_000

Logger = structlog.stdlib.BoundLogger


class _DropWhenFull(logging.handlers.QueueHandler):
    """A full queue costs log lines, never a decision."""

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            return

    def prepare(self, record: logging.LogRecord) -> Any:
        return record


def setup(*, json: bool | None = None, level: str = "INFO") -> None:
    """Configure logging for the process. `json=None` chooses JSON unless standard error is a terminal."""
    use_json = not sys.stderr.isatty() if json is None else json
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    if use_json:
        shared.append(structlog.processors.format_exc_info)
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    renderer: Any = (
        structlog.processors.JSONRenderer() if use_json else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer]
        )
    )
    lines: queue.Queue[logging.LogRecord] = queue.Queue(_QUEUE_LINES)
    listener = logging.handlers.QueueListener(lines, handler)
    listener.start()
    atexit.register(listener.stop)
    root = logging.getLogger()
    root.handlers[:] = [_DropWhenFull(lines)]
    root.setLevel(level.upper())
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)


def get_logger(name: str) -> Logger:
    """A logger whose calls read `log.info("pod_bound", pod=..., node=...)`."""
    logger: Logger = structlog.stdlib.get_logger(name)
    return logger
