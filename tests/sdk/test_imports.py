"""`import leveret` is light, and what it offers is what `__all__` says."""

import json
import subprocess
import sys

import leveret

SERVER_SIDE = (
    "aiormq",
    "aio_pika",
    "aiosqlite",
    "aiosql",
    "sqlite3",
    "pydantic",
    "structlog",
    "rich",
    "click",
    "cloudpickle",
    "numpy",
    "leveret_coordinator",
    "leveret_worker",
)


def modules_after(statement: str) -> set[str]:
    program = f"import sys; {statement}; import json; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    return set(json.loads(done.stdout))


def test_importing_leveret_pulls_in_no_server_code() -> None:
    assert modules_after("import leveret").isdisjoint(SERVER_SIDE)


def test_defining_and_calling_pulls_in_no_server_code() -> None:
    program = "import leveret; f = leveret.define.task(print); f.fn"
    assert modules_after(program).isdisjoint(SERVER_SIDE)


def test_all_that_is_promised_is_there() -> None:
    assert all(getattr(leveret, name) is not None for name in leveret.__all__)
    assert len(set(leveret.__all__)) == len(leveret.__all__)
