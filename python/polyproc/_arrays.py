"""numpy arrays that lie in session memory: made there, seen by every process that is given them, never copied on the way.

``empty``, ``zeros`` and ``asarray`` make them. Such an array, or a view of it, that goes through a queue, a pipe, a pool
or the arguments of a process goes *by reference*: sender and receivers have the same bytes, and what one writes the others
see, as threads would. Who needs turns takes a lock. Any other array arrives as a private copy.

The memory lives as long as a process has the array or a view of it, or a message is under way that brings it; a process
that is killed holds it no longer. A plain ``pickle.dumps`` writes the contents, as for any array.
"""

from __future__ import annotations

import sys
from math import prod
from pickle import PickleBuffer
from typing import TYPE_CHECKING, Any

from . import _polyproc, context

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import SupportsIndex, TypeAlias

    import numpy
    import numpy.typing

    Array: TypeAlias = numpy.typing.NDArray[Any]

__all__ = ["asarray", "empty", "zeros"]

#: Kinds of numbers whose type is all said by its code.
_PLAIN_KINDS = frozenset("biufc")


def empty(shape: SupportsIndex | Sequence[SupportsIndex], dtype: Any = float, order: str = "C") -> Array:
    """A new array in session memory, whose contents are not defined.

    Parameters are those of ``numpy.empty``: ``shape``, ``dtype``, and ``order``, ``"C"`` or ``"F"``. Raises ``ImportError``
    without numpy, ``TypeError`` for types that hold Python objects, and ``OSError`` (``ENOSPC``) beyond the session's budget.

    >>> import polyproc as mp
    >>> frame = mp.empty((480, 640, 3), "uint8")
    >>> process = mp.Process(target=frame.fill, args=(255,))
    >>> process.start(); process.join()
    >>> int(frame[0, 0, 0])
    255
    """
    return _new(shape, dtype, order, zero=False)


def zeros(shape: SupportsIndex | Sequence[SupportsIndex], dtype: Any = float, order: str = "C") -> Array:
    """A new array in session memory, full of zeros; parameters and errors as of :func:`empty`.

    >>> import polyproc as mp
    >>> counts = mp.zeros(10, int)
    >>> int(counts.sum())
    0
    """
    return _new(shape, dtype, order, zero=True)


def asarray(obj: Any, dtype: Any = None) -> Array:
    """`obj` as an array in session memory: itself if it is one (of that ``dtype``), else a copy.

    Errors as of :func:`empty`, and those of ``numpy.asarray``.

    >>> import polyproc as mp
    >>> table = mp.asarray([1.0, 2.0, 3.0])
    >>> mp.asarray(table) is table
    True
    """
    array = _numpy().asarray(obj, dtype)
    if _memory_of(array) is not None:
        return array  # type: ignore[no-any-return]
    shared = empty(array.shape, array.dtype, "F" if array.flags.fnc else "C")
    shared[...] = array
    return shared


def reduce_array(array: Any) -> Any:
    """How an array is written into a message: by reference if it lies in session memory, else with its contents beside."""
    if (memory := _memory_of(array)) is not None and _may_name():
        return _by_reference(array, memory)
    # What arrives is the receiver's own and can be written to, as with the standard library. Protocol 5 would make a
    # read-only array of a read-only one.
    flags, dtype = array.flags, array.dtype
    if not flags.writeable:
        from ._pickling import OUT_OF_BAND

        if array.nbytes < OUT_OF_BAND:
            return array.__reduce_ex__(4)
        array = array.copy("K")
    # Most arrays, without the seven names that numpy would have pickle look up: 2 µs instead of 17.
    if flags.c_contiguous and dtype.kind in _PLAIN_KINDS and dtype.metadata is None and array.nbytes:
        return _rebuild, (PickleBuffer(array), dtype.str, array.shape)
    return array.__reduce_ex__(5)


def _rebuild(buffer: Any, dtype: str, shape: tuple[int, ...]) -> Array:
    return _numpy().ndarray(shape, dtype, buffer)  # type: ignore[no-any-return]


def _reduce_for_child(array: Any) -> Any:
    """The same for the arguments of a child that is spawned, whose pickle has nothing beside it."""
    if (memory := _memory_of(array)) is not None and _may_name():
        return _by_reference(array, memory)
    return array.__reduce_ex__(4)


def _new(shape: Any, dtype: Any, order: str, zero: bool) -> Array:
    numpy = _numpy()
    kind = numpy.dtype(dtype)
    if kind.hasobject:
        raise TypeError(f"an array of {kind} holds addresses of this process's objects: other processes cannot use them")
    if order not in ("C", "F"):
        raise ValueError(f"order must be 'C' or 'F', not {order!r}")
    sizes = tuple(map(int, shape)) if hasattr(shape, "__iter__") else (int(shape),)
    if any(size < 0 for size in sizes):
        raise ValueError(f"negative dimensions are not allowed: {sizes}")
    memory = _polyproc.Memory(prod(sizes) * kind.itemsize, zero)
    _register(numpy)
    return numpy.ndarray(sizes, kind, memory, order=order)  # type: ignore[no-any-return]


def _register(numpy: Any) -> None:
    # For spawned children; messages find `reduce_array` by themselves.
    reducers = context.reduction.ForkingPickler._extra_reducers
    if numpy.ndarray not in reducers:
        context.reduction.register(numpy.ndarray, _reduce_for_child)


def _memory_of(array: Any) -> _polyproc.Memory | None:
    """The session memory that an array is a view of."""
    base = array.base
    if base is None:
        return None
    ndarray = _numpy().ndarray
    while isinstance(base, ndarray):
        base = base.base
    return base if type(base) is _polyproc.Memory else None


def _may_name() -> bool:
    """Whether what is being pickled goes to a process of this session."""
    child = context.get_spawning_popen()
    return _polyproc.is_sharing() and (child is None or hasattr(child, "participant"))


def _by_reference(array: Any, memory: _polyproc.Memory) -> Any:
    offset = array.__array_interface__["data"][0] - memory._address
    name = memory._share("array in session memory")
    return _attach, (name, offset, array.shape, array.strides, array.dtype, array.flags.writeable)


def _attach(
    name: bytes, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], dtype: Any, writeable: bool
) -> Array:
    numpy = _numpy()
    memory = _polyproc.Memory._attach(name)
    _register(numpy)
    array: Array = numpy.ndarray(shape, dtype, memory, offset, strides)
    array.flags.writeable = writeable
    return array


def _numpy() -> Any:
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        return numpy
    try:
        import numpy
    except ImportError as error:
        raise ImportError("arrays in session memory are numpy arrays: install numpy (pip install numpy)") from error
    return numpy
