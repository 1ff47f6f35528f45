"""A function's fingerprint: a hash of what it does, not of how it is written down.

The syntax tree is hashed, without decorators, docstrings and positions, in a form that is the same
in every version of Python. A function whose source can't be found, or can't be told from another
on the same line, is known by its compiled code instead, which is the same in one version only.
From Python 3.14 on that code shows whether there is a docstring.
"""

import ast
import copy
import functools
import hashlib
import inspect
from collections.abc import Callable, Iterator
from itertools import chain
from operator import itemgetter
from types import CodeType
from typing import Any

_Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
_Documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_IGNORED_FIELDS = {"ctx", "kind", "type_comment"}
_HAS_DOCSTRING = 0x4000000
"""A code flag since Python 3.13."""


def fingerprint(fn: Callable[..., object]) -> str:
    """128 bits of BLAKE2b in hex; the name counts, as do annotations and defaults."""
    function = _undecorated(fn)
    digest = hashlib.blake2b(digest_size=16)
    for piece in _tree_pieces(function) or _code_pieces(function):
        digest.update(piece.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _undecorated(fn: Callable[..., object]) -> Any:
    """The function that a person wrote, beneath wrappers, bound methods and partials."""
    function: Any = inspect.unwrap(fn)
    while True:
        if isinstance(function, functools.partial):
            function = function.func
        elif inspect.ismethod(function):
            function = function.__func__
        elif not hasattr(function, "__code__") and inspect.ismethod(
            getattr(function, "__call__", None)  # noqa: B004 - its function is wanted
        ):
            function = function.__call__.__func__
        else:
            return inspect.unwrap(function)


# -- from the source ------------------------------------------------------------------------------


def _tree_pieces(function: Any) -> list[str]:
    """Nothing if there is no source, or it leaves open which function is meant."""
    code = getattr(function, "__code__", None)
    if not isinstance(code, CodeType):
        return []
    try:
        lines, _ = inspect.findsource(function)
        found = _functions("".join(lines)).get((code.co_firstlineno, code.co_name), ())
        if len(found) != 1 or not _has_parameters(found[0], code):
            return []
        return ["tree", *_pieces(_bare(found[0]))]
    except (OSError, SyntaxError, ValueError, RecursionError, TypeError, IndexError):
        return []


@functools.lru_cache(maxsize=16)
def _functions(source: str) -> dict[tuple[int, str], list[_Function]]:
    """The functions of a file, by the line where their code begins and their name."""
    functions: dict[tuple[int, str], list[_Function]] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Lambda):
            functions.setdefault((node.lineno, "<lambda>"), []).append(node)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            functions.setdefault((first, node.name), []).append(node)
    return functions


def _has_parameters(node: _Function, code: CodeType) -> bool:
    """Whether the source, which may have been edited since it was loaded, fits the code."""
    parameters = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    count = code.co_argcount + code.co_kwonlyargcount
    names = code.co_varnames[:count]
    return len(parameters) == count and all(
        name.endswith(parameter.arg)  # a private name in a class is mangled
        for name, parameter in zip(names, parameters, strict=True)
    )


def _bare(node: _Function) -> _Function:
    """The function without its decorators."""
    if isinstance(node, ast.Lambda):
        return node
    bare = copy.copy(node)
    bare.decorator_list = []
    return bare


def _pieces(value: Any) -> Iterator[str]:
    if isinstance(value, ast.Constant):
        yield from ("(", *_constant_pieces(value.value), ")")
    elif isinstance(value, ast.AST):
        yield f"({type(value).__name__}"
        for name, field in _fields(value):
            yield f" {name}="
            yield from _pieces(field)
        yield ")"
    elif _is(value, list):
        yield "["
        yield from chain.from_iterable(map(_pieces, value))
        yield "]"
    else:
        yield from _constant_pieces(value)


def _fields(node: ast.AST) -> Iterator[tuple[str, object]]:
    """The fields that say something, sorted: which empty ones there are differs by version."""
    for name in sorted(node._fields):
        field: Any = getattr(node, name, None)
        if name in _IGNORED_FIELDS or field is None or field == []:
            continue
        if name == "body" and isinstance(node, _Documented):
            field = _without_docstring(field)
        elif name == "values" and isinstance(node, ast.JoinedStr):
            field = _merged(field)
        yield name, field


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    match body:
        case [ast.Expr(value=ast.Constant(value=str())), *rest]:
            return rest
        case _:
            return body


def _merged(parts: list[ast.expr]) -> list[ast.expr]:
    """An f-string's parts with neighbouring texts joined, as only some versions do."""
    merged: list[ast.expr] = []
    for part in parts:
        match merged, part:
            case _, ast.Constant(value=""):
                continue
            case [*_, ast.Constant(value=str() as before)], ast.Constant(value=str() as text):
                merged[-1] = ast.Constant(value=before + text)
            case _:
                merged.append(part)
    return merged


# -- from the compiled code -----------------------------------------------------------------------


def _code_pieces(function: Any) -> Iterator[str]:
    code = getattr(function, "__code__", None)
    if not isinstance(code, CodeType):
        name = getattr(function, "__qualname__", type(function).__qualname__)
        yield from ("name", str(getattr(function, "__module__", None)), ".", name)
        return
    yield "code"
    yield from _constant_pieces(_without_doc(code, function.__doc__))
    yield from _constant_pieces(function.__defaults__)
    keyword_defaults: dict[str, Any] = function.__kwdefaults__ or {}
    for name, default in sorted(keyword_defaults.items(), key=itemgetter(0)):
        yield from _constant_pieces((name, default))


def _without_doc(code: CodeType, doc: object) -> CodeType:
    if doc is None or not code.co_consts or code.co_consts[0] != doc:
        return code
    return code.replace(co_consts=(None, *code.co_consts[1:]))


def _constant_pieces(value: Any) -> Iterator[str]:
    """A constant with its type, in the same words everywhere: `repr` follows Unicode's version."""
    yield f"{type(value).__name__}:"
    if _is(value, str):
        yield f"{len(value)}:{value}"
    elif _is(value, bytes):
        yield value.hex()
    elif _is(value, int):
        yield hex(value)
    elif _is(value, bool) or _is(value, float) or _is(value, complex):
        yield repr(value)
    elif _is(value, tuple):
        yield from ("(", *_each(value), ")")
    elif _is(value, frozenset):
        yield from ("{", *sorted("".join(_constant_pieces(item)) for item in value), "}")
    elif _is(value, CodeType):
        yield from _each(_code_parts(value))
    # Of `None`, `...` and defaults that are no constants the type says all that can be said.


def _is(value: object, kind: type) -> bool:
    return type(value) is kind


def _each(values: tuple[Any, ...]) -> Iterator[str]:
    for value in values:
        yield from _constant_pieces(value)
        yield ","


def _code_parts(code: CodeType) -> tuple[Any, ...]:
    """All that makes the code do what it does; not where it stands."""
    return (
        (code.co_name, code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount),
        (code.co_flags & ~_HAS_DOCSTRING, code.co_code, code.co_exceptiontable),
        (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars),
        code.co_consts,
    )
