"""One object for many tasks: pickled once, stored once in session memory, unpickled once in each process that uses it.

::

    memory   dropped:8 | count:8 | length:8 ... | the pickle | buffers, each at a multiple of 64

What travels is the memory's name. Large buffers stay where they are: arrays inside are read-only views of the session
memory, the same pages in all processes. It lives as long as a process has a `SharedObject`, or something that is a view of
its value.

A worker of a pool keeps what it has unpickled for the tasks to come, until the end of the first task after the maker has
dropped its own; the maker says so in ``dropped``, which it alone writes. If the maker dies instead, its workers end too.
"""

from __future__ import annotations

import os
import struct
from typing import Any, Generic, TypeVar
from weakref import WeakValueDictionary

from . import _pickling, _polyproc

__all__: list[str] = []

_T = TypeVar("_T")

_WORD = struct.Struct("<Q")
_ALIGNMENT = 64
_NOTHING: Any = object()

#: Those that this process has, by the names of their memory.
_known: WeakValueDictionary[bytes, SharedObject[Any]] = WeakValueDictionary()
#: Those that a worker keeps for the tasks to come.
_kept: list[SharedObject[Any]] = []


class SharedObject(Generic[_T]):
    """An object that was given to :meth:`polyproc.pool.Pool.share`, here or in another process.

    Pass it to tasks, through queues and pipes, or to processes: it is a small name wherever it travels.
    """

    __slots__ = ("__weakref__", "_maker", "_memory", "_value")

    def __init__(self, memory: _polyproc.Memory, maker: int | None) -> None:
        self._memory = memory
        self._maker = maker
        self._value: _T = _NOTHING

    @property
    def value(self) -> _T:
        """The object, unpickled when first asked for: the same one for all who ask in this process.

        Arrays inside cannot be written to. Other parts are this process's own copy, which nobody else sees.
        """
        if self._value is _NOTHING:
            body, *buffers = _parts(self._memory)
            self._value = _pickling.loads(body, buffers=buffers)
        return self._value

    def __reduce__(self) -> Any:
        name = self._memory._share("SharedObject")
        _known[name] = self
        return _arrive, (name,)

    def __repr__(self) -> str:
        what = f"{len(self._memory)} bytes" if self._value is _NOTHING else type(self._value).__qualname__
        return f"<SharedObject: {what}>"

    def __del__(self) -> None:
        if getattr(self, "_maker", None) == os.getpid():
            with memoryview(self._memory) as memory:
                _WORD.pack_into(memory, 0, 1)

    def _is_dropped(self) -> bool:
        with memoryview(self._memory) as memory:
            return bool(_WORD.unpack_from(memory)[0])


def share(obj: _T) -> SharedObject[_T]:
    """Stores `obj`; see :meth:`polyproc.pool.Pool.share`."""
    buffers: list[memoryview] = []
    parts = [memoryview(_pickling.dumps(obj, buffers)).cast("B"), *(buffer.cast("B") for buffer in buffers)]
    head = _aligned(16 + 8 * len(parts))
    memory = _polyproc.Memory(head + sum(_aligned(part.nbytes) for part in parts), False)
    with memoryview(memory) as target:
        struct.pack_into(f"<QQ{len(parts)}Q", target, 0, 0, len(parts), *(part.nbytes for part in parts))
        at = head
        for part in parts:
            target[at : at + part.nbytes] = part
            at += _aligned(part.nbytes)
    return SharedObject(memory, os.getpid())


def _parts(memory: _polyproc.Memory) -> list[memoryview]:
    view = memoryview(memory).toreadonly()
    (count,) = _WORD.unpack_from(view, 8)
    at, parts = _aligned(16 + 8 * count), []
    for length in struct.unpack_from(f"<{count}Q", view, 16):
        parts.append(view[at : at + length])
        at += _aligned(length)
    return parts


def _aligned(length: int) -> int:
    return -(-length // _ALIGNMENT) * _ALIGNMENT


def _arrive(name: bytes) -> SharedObject[Any]:
    known = _known.get(name)
    if known is not None:
        return known
    arrived: SharedObject[Any] = SharedObject(_polyproc.Memory._attach(name), None)
    _known[name] = arrived
    if _polyproc.after_task(_forget):
        _kept.append(arrived)
    return arrived


def _forget() -> None:
    """Lets go of what its maker has dropped. A worker calls it after each task."""
    _kept[:] = [shared for shared in _kept if not shared._is_dropped()]
