from collections.abc import Callable
from pathlib import Path

from aiosql.queries import Queries

def from_path(sql_path: str | Path, driver_adapter: str | Callable[[], object]) -> Queries: ...
