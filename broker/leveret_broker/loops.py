"""Which event loop our own threads and services run on."""

import asyncio
import os
from collections.abc import Callable

VARIABLE = "LEVERET_UVLOOP"

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def loop_factory() -> LoopFactory | None:
    """uvloop's, where it is installed and LEVERET_UVLOOP is not 0; `None` for asyncio's own."""
    if os.environ.get(VARIABLE, "").lower() in ("0", "false", "no", "off"):
        return None
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
