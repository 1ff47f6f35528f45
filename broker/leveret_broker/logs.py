"""Logging: events with fields, through the standard library's loggers.

A program that embeds leveret hears of warnings only, as of any library. A service calls
`configure` and logs everything by structlog: lines for people on a terminal, JSON lines elsewhere.
"""

import logging
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor


class EventLogger:
    """Logs an event and its fields: `log.info("ready", queue=name)`."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, event: str, **fields: object) -> None:
        """News for who looks for a fault."""
        self._log(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: object) -> None:
        """What a service does in good order."""
        self._log(logging.INFO, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """Something is wrong, and is being dealt with."""
        self._log(logging.WARNING, event, fields)

    def error(self, event: str, **fields: object) -> None:
        """Something is wrong that a person should look at."""
        self._log(logging.ERROR, event, fields)

    def exception(self, event: str, **fields: object) -> None:
        """The same, with the traceback of the exception that is being handled."""
        self._log(logging.ERROR, event, fields, traceback=True)

    def _log(
        self, level: int, event: str, fields: dict[str, object], *, traceback: bool = False
    ) -> None:
        if self._logger.isEnabledFor(level):
            text = " ".join([event, *(f"{name}={value}" for name, value in fields.items())])
            extra = {"leveret_event": event, "leveret_fields": fields}
            self._logger.log(level, text, exc_info=traceback, extra=extra)


def get_logger(name: str) -> EventLogger:
    """The logger of one part of leveret, `leveret.worker` for instance."""
    return EventLogger(name)


def configure(level: int = logging.INFO) -> None:
    """Send everything that is logged in this process to standard error, by structlog."""
    import structlog

    if sys.stderr.isatty():
        renderer: Processor = structlog.dev.ConsoleRenderer()
    else:
        renderer = structlog.processors.JSONRenderer(default=str)
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                _with_fields,
                structlog.stdlib.add_log_level,
                structlog.stdlib.add_logger_name,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.format_exc_info,
            ],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=level, force=True)


def _with_fields(_logger: Any, _method: str, event: "EventDict") -> "EventDict":
    """The event and its fields apart again, for a renderer that can show them."""
    record: logging.LogRecord = event["_record"]
    fields: dict[str, Any] = getattr(record, "leveret_fields", {})
    return {**event, "event": getattr(record, "leveret_event", event["event"]), **fields}
