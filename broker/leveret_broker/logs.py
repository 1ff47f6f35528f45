"""Logging: key-value events by structlog, through the standard library's loggers.

A program that embeds leveret hears of warnings only, as of any library. A service calls
`configure` and logs everything: lines for people on a terminal, JSON lines elsewhere.
"""

import logging
import sys
from typing import Any

import structlog


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger that takes an event and its fields: `log.info("ready", queue=name)`."""
    logger: structlog.stdlib.BoundLogger = structlog.wrap_logger(
        logging.getLogger(name),
        processors=[structlog.stdlib.filter_by_level, _as_record],
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    return logger


def configure(level: int = logging.INFO) -> None:
    """Send everything that is logged in this process to standard error."""
    if sys.stderr.isatty():
        renderer: structlog.typing.Processor = structlog.dev.ConsoleRenderer()
    else:
        renderer = structlog.processors.JSONRenderer(default=str)
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                _from_record,
                structlog.stdlib.add_log_level,
                structlog.stdlib.add_logger_name,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.format_exc_info,
            ],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=level, force=True)


def _as_record(
    _logger: Any, _method: str, event: structlog.typing.EventDict
) -> tuple[tuple[str], dict[str, Any]]:
    """The arguments of the standard logger: readable as it is, with the fields alongside."""
    text: str = event.pop("event")
    error = event.pop("exc_info", None)
    readable = " ".join([text, *(f"{name}={value}" for name, value in event.items())])
    return (readable,), {
        "exc_info": error,
        "extra": {"leveret_event": text, "leveret_fields": dict(event)},
    }


def _from_record(
    _logger: Any, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """The fields again, for a formatter that can show them."""
    record: logging.LogRecord = event["_record"]
    fields: dict[str, Any] = getattr(record, "leveret_fields", {})
    return {**event, "event": getattr(record, "leveret_event", event["event"]), **fields}
