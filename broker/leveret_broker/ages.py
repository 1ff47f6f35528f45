"""Ages as people write them: a number and a unit."""

import re

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(text: str) -> float:
    """Seconds of an age such as `15m`. Raises `ValueError`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if match is None:
        raise ValueError(f"{text!r} is no age: write 30s, 15m, 4h or 7d")
    return float(match[1]) * UNITS[match[2]]


def text(seconds: float) -> str:
    """An age in the largest unit of which it is a whole number."""
    for unit in ("d", "h", "m"):
        if seconds and seconds % UNITS[unit] == 0:
            return f"{seconds / UNITS[unit]:.0f}{unit}"
    return f"{seconds:g}s"
