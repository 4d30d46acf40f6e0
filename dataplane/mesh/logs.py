"""Logs: one JSON object a line on standard error, with nothing in them that a tenant sealed."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import traceback
from pathlib import Path
from typing import Any

from dataplane.protocol.errors import MrgcError

logger = logging.getLogger(__name__)

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON line: `ts` (ms since 1970), `level`, `logger`, `message`, and the extras."""

    def __init__(self, *, service: str) -> None:
        """Name the service in every line."""
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; an exception is given by its type and place, its frames only at DEBUG.

        Only errors of our own family are given with their sentence: what a library says of a fault may quote what it
        was working on.
        """
        line: dict[str, Any] = {
            "ts": int(record.created * 1000),
            "level": record.levelname,
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            line["error"] = f"{type(error).__name__}: {error}" if isinstance(error, MrgcError) else place_of(error)
            if logging.getLogger().isEnabledFor(logging.DEBUG):
                line["traceback"] = "".join(traceback.format_tb(error.__traceback__))
        return json.dumps(line, default=str, ensure_ascii=False)


def place_of(error: BaseException | None) -> str:
    """Return an error's type and where it was raised, and nothing of its text: that could quote a message."""
    if error is None:
        return "an error"
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}"


def log_unhandled(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what no task took care of by its kind: a loop's own handler prints the error's text, twice.

    For `loop.set_exception_handler`; `context` is as asyncio documents it.
    """
    logger.error("%s: %s", context.get("message", "an error nobody handled"), place_of(context.get("exception")))


def configure_logs(service: str, level: str) -> None:
    """Send the whole process's logs to standard error as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(service=service))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # These repeat URLs, headers and bodies at DEBUG: never, whatever the level asked for.
    for noisy in ("botocore", "boto3", "urllib3", "aiohttp.access", "asyncio"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLevelName(level)))
