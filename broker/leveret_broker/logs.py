"""Logging: events with fields, through the standard library's loggers.

A program that embeds leveret hears of warnings only, as of any library. A service calls
`configure` and logs everything: lines for people, or an object a line for machines.
"""

import json
import logging
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from structlog.typing import EventDict

Format = Literal["auto", "text", "json"]
"""`auto`: text on a terminal, JSON elsewhere."""
VARIABLE = "LEVERET_LOG_FORMAT"

Fields = Mapping[str, object]

_PASSWORDS = re.compile(r"(://[^\s/:@\"']*:)[^\s/@\"']+@")
_OF_RECORDS = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}
_RESERVED = ("time", "level", "logger", "message", "exception")


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


class Tally:
    """Counts what may come in floods, and logs the first, second, fourth, eighth … of it."""

    def __init__(self, log: Callable[..., None], event: str) -> None:
        """`log` is a level's method of a logger."""
        self._log = log
        self._event = event
        self.count = 0

    def add(self, **fields: object) -> None:
        """One more. If it is logged, so is the count."""
        self.count += 1
        if self.count & (self.count - 1) == 0:
            self._log(self._event, **fields, count=self.count)


# -- in a service's process -----------------------------------------------------------------------


@dataclass(slots=True)
class _Process:
    """How this process logs, if it is a service's."""

    format: Literal["text", "json"] | None = None
    context: Callable[[], Fields] = dict[str, object]


_process = _Process()


def configure(wanted: Format = "auto", level: int = logging.INFO) -> None:
    """Send everything that is logged in this process to standard error, warnings as well."""
    is_text = wanted == "text" or (wanted == "auto" and sys.stderr.isatty())
    _process.format = "text" if is_text else "json"
    handler = logging.StreamHandler()
    handler.setFormatter(_for_people() if is_text else JsonLines())
    logging.basicConfig(handlers=[handler], level=level, force=True)
    logging.captureWarnings(True)


def format_in_use() -> Literal["text", "json"] | None:
    """How this process logs; `None` if that is its program's affair."""
    return _process.format


def add_context(context: Callable[[], Fields]) -> None:
    """Have these fields added to each line, as of the moment and the code that logs it."""
    _process.context = context


class JsonLines(logging.Formatter):
    """One JSON object a record, with its fields beside it, and no password of a URL."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).replace(tzinfo=None)
        line: dict[str, object] = {
            "time": f"{moment.isoformat(timespec='milliseconds')}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": getattr(record, "leveret_event", None) or record.getMessage(),
        }
        for name, value in _fields(record).items():
            line[f"{name}_" if name in _RESERVED else name] = value
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return redacted(_as_json(line))


def _as_json(line: Fields) -> str:
    try:
        return json.dumps(line, default=str, allow_nan=False)
    except (TypeError, ValueError):  # keys that are no texts; nan, which JSON doesn't know
        return json.dumps(
            {name: value if value is None else str(value) for name, value in line.items()}
        )


def redacted(text: str) -> str:
    """Without the passwords of the URLs in it."""
    return _PASSWORDS.sub(r"\1***@", text)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """What stands beside the message: where it was logged, and what was given with it."""
    given = {
        name: value
        for name, value in vars(record).items()
        if name not in _OF_RECORDS and not name.startswith("leveret_")
    }
    return {**_process.context(), **given, **getattr(record, "leveret_fields", {})}


def _for_people() -> logging.Formatter:
    """Lines by structlog, in colours on a terminal."""
    import structlog

    class Lines(structlog.stdlib.ProcessorFormatter):
        def format(self, record: logging.LogRecord) -> str:
            return redacted(super().format(record))

    return Lines(
        foreign_pre_chain=[
            _with_fields,
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,  # renderers would show local variables
        ],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
        ],
    )


def _with_fields(_logger: Any, _method: str, event: "EventDict") -> "EventDict":
    """The event and its fields apart again, for a renderer that can show them."""
    record: logging.LogRecord = event["_record"]
    text = getattr(record, "leveret_event", event["event"])
    return {**event, "event": text, **_fields(record)}
