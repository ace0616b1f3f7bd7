"""How an object becomes a message when the plain codec will not write it: pickle, protocol 5.

* The reducers are the standard library's: ``ForkingPickler``'s registry and ``copyreg``. A program that has put another
  reducer in place (``context.reducer = ...``) has its messages written by that one.
* What exports large buffers (numpy arrays, pandas frames, Arrow tables) is written out of band: the pickle holds the
  shape, the buffers travel beside it in shared memory, copied once.
* What plain pickle refuses (lambdas, closures, functions defined in a notebook) goes to cloudpickle, where that is
  installed.

The extension module calls :func:`dumps` and :func:`loads`; nothing here is for programs to use.
"""

from __future__ import annotations

import copyreg
import io
import pickle
import sys
from collections import ChainMap
from collections.abc import Callable
from typing import Any

from . import _main_module, context
from ._borrowed import standard

__all__: list[str] = []

#: Bytes from which a buffer travels beside the pickle instead of in it.
OUT_OF_BAND = 16 * 1024

# What pickle raises for what it refuses. Anything else is the object's own error, and trying again would hide it.
_REFUSALS = (pickle.PicklingError, TypeError, AttributeError)

_ForkingPickler: type[pickle.Pickler] = standard("reduction").ForkingPickler


def dumps(obj: object, buffers: list[memoryview]) -> Any:
    """Pickles `obj` and gives the pickle's bytes; large buffers are appended to `buffers` instead.

    Raises whatever pickling raises, with a note that names the type of `obj`.
    """
    return _dumps(obj, buffers, _always)


def dumps_result(obj: object, buffers: list[memoryview], function: object) -> Any:
    """The same for what a task's `function` has returned, which goes by value only if the function did.

    So a program hears of a result that it did not mean to send (a lambda, a closure) as it would from the standard
    library, whether or not cloudpickle happens to be installed.
    """
    return _dumps(obj, buffers, lambda: _came_by_value(function))


def _always() -> bool:
    return True


def _came_by_value(function: object) -> bool:
    try:
        standard_pickle(function)
    except Exception:
        return True
    return False


def _dumps(obj: object, buffers: list[memoryview], may_go_by_value: Callable[[], bool]) -> Any:
    pickler_class = context.reduction.ForkingPickler
    if pickler_class is not _ForkingPickler:
        return pickler_class.dumps(obj)

    stream = io.BytesIO()
    try:
        pickler = pickle.Pickler(stream, 5, buffer_callback=_collector(buffers))
        # As ForkingPickler does: a table made for this one dump, since both registries may have grown.
        table = copyreg.dispatch_table.copy()
        table.update(_ForkingPickler._extra_reducers)
        if (numpy := sys.modules.get("numpy")) is not None and hasattr(numpy, "ndarray"):
            from . import _arrays

            if table.get(numpy.ndarray, _arrays._reduce_for_child) is _arrays._reduce_for_child:
                table[numpy.ndarray] = _arrays.reduce_array
        pickler.dispatch_table = table
        pickler.dump(obj)
    except _REFUSALS as refusal:
        buffers.clear()
        again = _dumps_by_value(obj, buffers) if may_go_by_value() else None
        if again is None:
            _name(obj, refusal)
            raise
        return again
    except Exception as error:
        _name(obj, error)
        raise
    if _main_module.by_value and b"__main__" in stream.getvalue():
        buffers_before = buffers.copy()
        buffers.clear()
        again = _dumps_by_value(obj, buffers)
        if again is not None:
            return again
        _refuse_references(obj, table)
        buffers[:] = buffers_before
        return stream.getbuffer()
    return stream.getbuffer()


def _refuse_references(obj: object, table: Any) -> None:
    """Raises if the pickle of `obj` refers to a main module that the receiver does not have."""
    pickler = _main_module.Refusing(io.BytesIO(), 5, buffer_callback=lambda _: False)
    pickler.dispatch_table = table
    pickler.dump(obj)


#: Reads what :func:`dumps` wrote; ``buffers`` are the blocks that came beside it.
loads = pickle.loads


def standard_pickle(obj: object) -> Any:
    """`obj` as one pickle with everything in band: what ``recv_bytes()`` gives of what ``send()`` sent."""
    return context.reduction.ForkingPickler.dumps(obj)


def read_standard_pickle(data: Any) -> Any:
    """The object behind bytes that were sent with ``send_bytes()``: what ``recv()`` gives of them."""
    return context.reduction.ForkingPickler.loads(data)


def _collector(buffers: list[memoryview]) -> Callable[[pickle.PickleBuffer], bool]:
    def in_band(buffer: pickle.PickleBuffer) -> bool:
        try:
            raw = buffer.raw()
        except BufferError:  # not contiguous
            return True
        if raw.nbytes < OUT_OF_BAND:
            return True
        buffers.append(raw)
        return False

    return in_band


def _dumps_by_value(obj: object, buffers: list[memoryview]) -> Any:
    """The same by cloudpickle; None where it is not installed or refuses as well."""
    try:
        import cloudpickle
    except ImportError:
        return None
    stream = io.BytesIO()
    try:
        pickler = cloudpickle.Pickler(stream, 5, buffer_callback=_collector(buffers))
        pickler.dispatch_table = ChainMap(
            _ForkingPickler._extra_reducers,  # type: ignore[attr-defined]
            pickler.dispatch_table,
        )
        pickler.dump(obj)
    except Exception:
        buffers.clear()
        return None
    return stream.getbuffer()


def _name(obj: object, error: BaseException) -> None:
    kind = type(obj)
    error.add_note(f"while pickling a {kind.__module__}.{kind.__qualname__} to send it to another process")
