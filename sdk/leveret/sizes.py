"""Numbers of bytes as people read them."""

_UNITS = ("KiB", "MiB", "GiB", "TiB")


def shown(size: int) -> str:
    """`268435456` as `256 MiB`; with a decimal where it is not whole."""
    if size < 1024:
        return f"{size} bytes"
    number, unit = size / 1024, 0
    while number >= 1024 and unit < len(_UNITS) - 1:
        number, unit = number / 1024, unit + 1
    return f"{number:.0f} {_UNITS[unit]}" if number.is_integer() else f"{number:.1f} {_UNITS[unit]}"
