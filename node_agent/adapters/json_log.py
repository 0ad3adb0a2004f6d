"""Write each log record as one JSON object on a line, for those who collect logs as data."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime


class JsonFormatter(logging.Formatter):
    """Formats a record: `at` in UTC, `level`, `logger`, `message`, and `error` with the traceback of an exception."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of JSON."""
        line = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def use_json() -> None:
    """Format everything that the process logs from now on as JSON."""
    for handler in logging.getLogger().handlers:
        handler.setFormatter(JsonFormatter())
