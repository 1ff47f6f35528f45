"""numpy arrays and scalars as fields for `values`: their bytes travel as they lie in memory.

Only plain numbers, texts and times go this way. Arrays of objects or records, subclasses of
`ndarray` and types that other libraries added go to the pickle. A value that has a numpy type
proves that numpy is imported, so writing never imports it where it isn't used.
"""

import math
import re
import sys
from typing import TYPE_CHECKING, Any

from leveret.buffers import View
from leveret.errors import PayloadError
from leveret.readers import Malformed, typed
from leveret.values import Content, Mark

if TYPE_CHECKING:
    import numpy as np

_KINDS = "biufcSUmM"
_DTYPE = re.compile(rf"[<>|][{_KINDS}]\d{{1,9}}(\[\d{{0,9}}[a-zA-Z]{{1,2}}\])?", re.ASCII)


def fields(value: object, content: Content) -> tuple[Mark, list[object]] | None:
    """How an array or scalar is written, `None` for what isn't one or must be pickled."""
    numpy: Any = sys.modules["numpy"]
    if type(value) is numpy.ndarray:
        return _array_fields(numpy, value, content)
    if isinstance(value, numpy.generic):
        return _scalar_fields(numpy, value)
    return None


def _array_fields(numpy: Any, array: Any, content: Content) -> tuple[Mark, list[object]] | None:
    if not _is_plain(numpy, array.dtype):
        return None
    fortran = array.flags.f_contiguous and not array.flags.c_contiguous
    rows = array.T if fortran else array
    if not rows.flags.c_contiguous:
        rows = rows.copy(order="C")
    data = memoryview(rows.reshape(-1).view(numpy.uint8)) if rows.size else b""
    order = "F" if fortran else "C"
    return Mark.NUMPY_ARRAY, [
        array.dtype.str,
        list(array.shape),
        order,
        content(data, Mark.VIEW),
    ]


def _scalar_fields(numpy: Any, scalar: Any) -> tuple[Mark, list[object]] | None:
    # Two types may share one description (int64 and long long); only one of them comes back.
    dtype = scalar.dtype
    if not _is_plain(numpy, dtype) or numpy.dtype(dtype.str).type is not type(scalar):
        return None
    return Mark.NUMPY_SCALAR, [dtype.str, scalar.tobytes()]


def _is_plain(numpy: Any, dtype: Any) -> bool:
    return (
        dtype.kind in _KINDS
        and dtype.itemsize > 0
        and dtype.metadata is None
        and _DTYPE.fullmatch(dtype.str) is not None
        and numpy.dtype(dtype.str) == dtype
    )


def read_array(values: list[Any]) -> "np.ndarray[Any, Any]":
    """A writable array, which lies in its buffer if that can be written and is aligned.

    Raises `Malformed` unless the bytes are exactly those of its shape.
    """
    name, shape, order = typed(values[:-1], str, list, str)
    content = values[-1].data if type(values[-1]) is View else typed(values[-1:], bytes)[0]
    dtype = _dtype(name)
    typed(shape, *[int] * len(shape))
    if order not in ("C", "F") or any(length < 0 for length in shape):
        raise Malformed("an array of an impossible shape")
    if math.prod(shape) * dtype.itemsize != len(content):
        raise Malformed("an array of another size than its bytes")
    import numpy as np

    array: np.ndarray[Any, Any] = np.ndarray(tuple(shape), dtype, content, order=order)
    return array if array.flags.writeable and array.flags.aligned else array.copy(order)


def read_scalar(values: list[Any]) -> object:
    """A numpy scalar."""
    name, content = typed(values, str, bytes)
    dtype = _dtype(name)
    if dtype.itemsize != len(content):
        raise Malformed("a scalar of another size than its bytes")
    import numpy as np

    return np.ndarray((), dtype, content)[()]


def _dtype(name: str) -> "np.dtype[Any]":
    if not _DTYPE.fullmatch(name):
        raise Malformed("an array of an unknown type")
    try:
        import numpy as np
    except ImportError as error:
        raise PayloadError("it holds a numpy array, and numpy isn't installed here") from error
    dtype = np.dtype(name)
    if dtype.itemsize == 0:
        raise Malformed("an array of an unknown type")
    return dtype
