"""ctypes objects in shared memory, with and without a lock. A *re-rooted* module.

The standard library's source, over polyproc's locks and its :mod:`polyproc.heap`. Three things differ: a shared object may
also be sent to a running process, through polyproc's queues and connections; a ctypes object of the same type that is
not shared can still be pickled; and an access under the lock (``value.value``, ``array[3]``) is one call of the engine's
Python face, which takes the lock, reads or writes, and gives it back.
"""

import ctypes
from typing import TYPE_CHECKING, Any

from . import _polyproc
from ._borrowed import reroot
from ._polyproc import GuardedAttribute, is_sharing

if TYPE_CHECKING:
    from multiprocessing.sharedctypes import *

    from multiprocessing.sharedctypes import synchronized as _synchronized

    _standard_reduce: Any
    _assert_spawning: Any
else:
    reroot(globals())
    _standard_reduce, _assert_spawning, _synchronized = reduce_ctype, assert_spawning, synchronized


# The borrowed source finds these two under their names.


def reduce_ctype(obj: Any) -> Any:
    """How a ctypes object travels: where it lies if it is a shared one, otherwise by value."""
    return _standard_reduce(obj) if hasattr(obj, "_wrapper") else obj.__reduce__()


def assert_spawning(obj: Any) -> None:
    """Raises unless ``obj`` is on its way to another process."""
    if not is_sharing():
        _assert_spawning(obj)


# The wrappers. `synchronized` of the borrowed source makes them, and their like for structures.

#: ctypes' numbers, and what they are called.
_NUMBERS: dict[Any, str] = {
    getattr(ctypes, f"c_{name}"): code
    for name, code in zip(
        "byte ubyte short ushort int uint long ulong longlong ulonglong float double bool".split(), "bBhHiIlLqQfd?", strict=True
    )
}


def make_property(name: str) -> Any:
    """A property of a wrapper: the attribute ``name`` of what it wraps, under its lock."""
    return GuardedAttribute(name)


def _number_of(obj: Any) -> str | None:
    """What the numbers of a ctypes object in shared memory are called; None if it is anything but numbers."""
    if not hasattr(obj, "_wrapper"):
        return None
    kind = type(obj)
    if not isinstance(obj, ctypes.Array):
        return _NUMBERS.get(kind)
    item: Any = kind._type_
    return _NUMBERS.get(item) if kind is item * len(obj) else None  # not a class of the program's own


def _is_plain(wrapper: type, lock: Any) -> bool:
    """Whether lock and wrapper do nothing but to lock: their classes override none of it."""
    own = _polyproc.SemLock
    return isinstance(lock, own) and all(
        getattr(kind, name) is getattr(base, name)
        for kind, base, names in (
            (type(lock), own, ("acquire", "release", "__enter__", "__exit__")),
            (wrapper, _polyproc.Guarded, ("__enter__", "__exit__")),
        )
        for name in names
    )


class SynchronizedBase(_polyproc.Guarded):
    """A ctypes object and a lock: ``get_obj()`` and ``get_lock()``, and ``with`` of the lock.

    Args:
        obj: The ctypes object.
        lock: An RLock of `ctx` by default. Any object with ``acquire``, ``release`` and ``with`` will do.

    Example:
        >>> import polyproc as mp
        >>> value = mp.Value("i", 40)
        >>> with value:
        ...     value.value += 2
        >>> value.value
        42
    """

    def __init__(self, obj: Any, lock: Any = None, ctx: Any = None) -> None:
        if not lock:
            from . import get_context

            lock = (ctx or get_context()).RLock()
        self._guard(obj, lock, _is_plain(type(self), lock), _number_of(obj))
        self.acquire = lock.acquire
        self.release = lock.release

    def __reduce__(self) -> Any:
        assert_spawning(self)
        return _synchronized, (self.get_obj(), self.get_lock())

    def __repr__(self) -> str:
        return f"<{type(self).__name__} wrapper for {self.get_obj()}>"


class Synchronized(SynchronizedBase):
    """A number, as ``value``."""

    value = make_property("value")


class SynchronizedArray(SynchronizedBase, _polyproc.GuardedArray):
    """An array: its length, items and slices."""

    def __getslice__(self, start: int, stop: int) -> Any:
        return self[start:stop]

    def __setslice__(self, start: int, stop: int, values: Any) -> None:
        self[start:stop] = values


class SynchronizedString(SynchronizedArray):
    """An array of characters, also as ``value``, up to the first zero byte, and as ``raw``."""

    value = make_property("value")
    raw = make_property("raw")
