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
LOADERS = {
    *("load", "loads", "Unpickler", "_Unpickler", "_load", "_loads"),
    *("read_pickle", "ProcessPoolExecutor"),
}
PICKLING = {"pickle", "_pickle", "cloudpickle", "joblib", "pandas", "concurrent"}
"""Packages of which some functions load pickles, or let others send some."""
WHOLLY = {"dill", "shelve", "marshal", "multiprocessing", "torch", "jsonpickle", "runpy", "code"}
"""Modules that load pickles or code wherever they are used; `Connection.recv` is one of them."""
EXECUTING = {"eval", "exec", "compile", "__import__", "exec_module"}
ALLOWED = {
    "sdk/leveret/pickles.py": "the only module that loads the pickles of payloads",
    "worker/leveret_worker/functions.py": "a child's pipe, to which only its parent writes",
}
MADE_OF_FILES = {
    "worker/leveret_worker/functions.py": "files that its parent has loaded, in a child",
}


def sources() -> Iterator[tuple[str, ast.Module]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield str(path.relative_to(ROOT)), ast.parse(path.read_text())


def _package(module: str) -> str:
    return module.partition(".")[0]


def loads_pickles(tree: ast.AST) -> bool:
    """Whether any name in it leads to a function that loads a pickle, however it is imported."""
    names = {
        alias.asname or _package(alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if _package(alias.name) in PICKLING
    }
    return any(_is_loader(node, names) for node in ast.walk(tree))


def _is_loader(node: ast.AST, names: set[str]) -> bool:
    match node:
        case ast.Import(names=aliases):
            return any(_package(alias.name) in WHOLLY for alias in aliases)
        case ast.ImportFrom(module=str(module), names=aliases, level=0):
            package, given = _package(module), {alias.name for alias in aliases}
            if package == "numpy":
                return bool(given & {"load", "*", "format"})
            return package in WHOLLY or (package in PICKLING and bool(given & (LOADERS | {"*"})))
        case ast.Attribute(attr=attribute) if attribute in LOADERS:
            return _root(node) in names | {"np", "numpy"}
        case ast.keyword(arg="allow_pickle", value=value):
            return not (isinstance(value, ast.Constant) and value.value is False)
        case ast.Call(args=[ast.Constant(value=str(name)), *_]):
            return name in PICKLING | WHOLLY  # import_module("pickle"), getattr and the like
        case _:
            return False


def _root(node: ast.expr) -> str | None:
    """The name before all dots."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def executes_text(tree: ast.AST) -> bool:
    """Whether it makes code of text or files."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) if name in EXECUTING:
                return True
            case ast.Attribute(value=ast.Name(id="builtins"), attr=name) if name in EXECUTING:
                return True
            case ast.Attribute(attr="exec_module"):
                return True
            case ast.ImportFrom(module="builtins"):
                return True
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
        "import numpy\nnumpy.load(file)",
        "import numpy as np\nnp.lib.format.read_array(file, allow_pickle=True)",
        "from numpy import load",
        "frombuffer(file, allow_pickle=wanted)",
        "import multiprocessing.connection\ndef f(one): return one.recv()",
        "from multiprocessing import Pipe",
        "from concurrent.futures import ProcessPoolExecutor",
        "import concurrent.futures\nconcurrent.futures.ProcessPoolExecutor()",
        "import shelve",
        "import joblib\njoblib.load(path)",
        "from joblib import load as innocent",
        "import torch\ntorch.load(path)",
        "import dill",
        "import marshal\nmarshal.loads(b'')",
        "import pandas as pd\npd.read_pickle(path)",
    ):
        assert loads_pickles(ast.parse(code)), code
    for code in (
        "import json, pickle\njson.loads(''); pickle.dumps(1)",
        "from joblib import hashing",
        "from concurrent.futures import ThreadPoolExecutor",
        "import numpy as np\nnp.frombuffer(data); f(allow_pickle=False)",
        "sock.recv(1)",
    ):
        assert not loads_pickles(ast.parse(code)), code


def test_no_text_is_executed_but_the_modules_that_a_user_names() -> None:
    found = {name for name, tree in sources() if executes_text(tree)}
    assert found == set(MADE_OF_FILES), found ^ set(MADE_OF_FILES)


def test_the_search_finds_every_way_to_execute_text() -> None:
    for code in (
        "eval(text)",
        "exec(text)",
        "compile(text, '', 'exec')",
        "run = exec",
        "__import__(name)",
        "import builtins\nbuiltins.exec(text)",
        "from builtins import eval as innocent",
        "spec.loader.exec_module(module)",
    ):
        assert executes_text(ast.parse(code)), code
    assert not executes_text(ast.parse("import re\nre.compile('a'); self.execute(text)"))


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
