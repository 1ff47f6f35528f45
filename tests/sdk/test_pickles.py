"""Where pickles are loaded: in one module, which one other calls after verifying a signature."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "sdk/leveret",
    "broker/leveret_broker",
    "coordinator/leveret_coordinator",
    "worker/leveret_worker",
)
LOADERS = {"load", "loads", "Unpickler", "_Unpickler", "_load", "_loads", "open"}
PICKLING = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
ALLOWED = {
    "sdk/leveret/pickles.py": "the only module that loads the pickles of payloads",
    "worker/leveret_worker/functions.py": "a child's pipe, to which only its parent writes",
}


def sources() -> Iterator[tuple[str, ast.Module]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield str(path.relative_to(ROOT)), ast.parse(path.read_text())


def loads_pickles(tree: ast.AST) -> bool:
    """Whether any name in it leads to a function that loads a pickle, however it is imported."""
    names = {
        alias.asname or alias.name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name.partition(".")[0] in PICKLING
    }
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module=str(module)) if module.partition(".")[0] in PICKLING:
                if any(alias.name in LOADERS | {"*"} for alias in node.names):
                    return True
            case ast.Attribute(value=ast.Name(id=name), attr=attribute):
                if name in names and attribute in LOADERS:
                    return True
            case ast.Call(args=[ast.Constant(value=str(name)), *_]) if name in PICKLING:
                return True  # import_module("pickle"), getattr and the like
            case _:
                pass
    return False


def test_pickles_are_loaded_by_payload_code_alone() -> None:
    found = {name for name, tree in sources() if loads_pickles(tree)}
    assert "sdk/leveret/pickles.py" in found
    assert found <= set(ALLOWED), f"pickles are loaded in {sorted(found - set(ALLOWED))}"


def test_the_search_finds_every_way_to_load_a_pickle() -> None:
    for code in (
        "import pickle\npickle.loads(b'')",
        "import pickle as p\ndef f(): return p.Unpickler",
        "from cloudpickle import loads as innocent",
        "from pickle import *",
        "import importlib\nimportlib.import_module('cloudpickle')",
    ):
        assert loads_pickles(ast.parse(code)), code
    assert not loads_pickles(ast.parse("import json, pickle\njson.loads(''); pickle.dumps(1)"))


def test_only_payload_unpickles_and_only_after_it_verified() -> None:
    users = {
        name
        for name, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr == "Unpickling"
    }
    assert users == {"sdk/leveret/payload.py"}
    calls = {
        (function.name, call.func.id): call.lineno
        for module in ("payload", "signatures")
        for function in ast.walk(ast.parse((ROOT / f"sdk/leveret/{module}.py").read_text()))
        if isinstance(function, ast.FunctionDef)
        for call in ast.walk(function)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
    }
    callers = {(called, caller) for caller, called in calls}
    assert [caller for called, caller in callers if called == "_unpickling"] == ["_read"]
    assert [caller for called, caller in callers if called == "Vouched"] == ["verified"]
    assert calls["_read", "PayloadError"] < calls["_read", "_unpickling"]
    assert calls["verified", "PayloadError"] < calls["verified", "Vouched"]


def test_the_proof_that_a_signature_was_verified_is_made_nowhere_else() -> None:
    makers = {
        name
        for name, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and (
            (isinstance(node.func, ast.Name) and node.func.id == "Vouched")
            or (isinstance(node.func, ast.Attribute) and node.func.attr == "Vouched")
        )
    }
    assert makers == {"sdk/leveret/signatures.py"}
