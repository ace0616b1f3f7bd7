"""A manager's dict in the session's memory: read and written by its users without asking the server. An *own* module.

A dict that is used much gets a *log* in shared memory, of which every user keeps a replica:

```text
 head    8 bytes: epoch (32) | end of the log (32), 0 while the server writes it anew. One store of it commits a
         record, or tells to read all anew
 records 4 bytes of length, and the plain codec's bytes of one of
           (key, encoded value)   now the value of that key
           (key, None)            the key is deleted
           (key,)                 its value is with the server: too large, or for pickle
           ()                     there are keys that the plain codec does not write: ask the server before "no such key"
```

To write is to append under the lock, so to read is to compare the head with the one seen last, to apply what is new,
and to decode the value: each read gives a copy of its own, as from the server. Everything else is done by the server, which
first applies the records that it has not seen, and appends what its call has changed.

The server alone begins a log anew, when the old one is full: it writes what is left, and raises the epoch.

DEATH. Whoever is killed while writing has committed nothing, and the engine frees the lock. The death of the server is
seen by a lock that it holds for as long as it lives.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from platform import machine
from threading import Lock, get_ident
from typing import Any

from . import _polyproc
from .errors import HolderDiedWarning

__all__ = ["Log", "Moved", "Replica"]

_encode, _decode = _polyproc.encode_plain, _polyproc.decode_plain

_BEGIN = 64  # of the first record
_MOVED = 2**64 - 1  # head of a log that is of no use any more
_OFFSET = 2**32 - 1
FIRST_SIZE, LARGEST_SIZE = 16 * 1024, 4 * 1024 * 1024
_ROOMY = 256 * 1024  # of a log that is filled again and again: so many writes go by before the server is asked

#: Whether a processor sees the writes of another in their order; elsewhere the lock sees to it.
_STRONG_ORDER = machine() in ("x86_64", "AMD64", "i686")

_LENGTHS = [length.to_bytes(4, "little") for length in range(256)]

#: What changes nothing.
_READS = frozenset(
    "__contains__ __getitem__ __iter__ __len__ __or__ __ror__ __reversed__ __repr__ __str__ #GETVALUE copy get items keys "
    "values".split()
)


class Moved(Exception):
    """The log is no longer where it was: ask the server."""


class Busy(Exception):
    """Let the server do it."""


class Full(Exception):
    """There is no room for the record: the server has to begin the log anew."""


def _record(*content: Any) -> bytes | None:
    """A record as it is written; None if the plain codec does not write it."""
    data = _encode(content)
    return None if data is None else len(data).to_bytes(4, "little") + data


class _Place:
    """The memory and the lock of a log."""

    def __init__(self, memory: Any, lock: Any) -> None:
        self.memory = memory
        self.lock = lock
        self.view = memoryview(memory).cast("B")
        self.head = self.view[:8].cast("Q")
        self.size = len(memory)
        self.seen = 0
        self.owner = 0  # the thread that has the lock: a signal handler in it must not wait for it

    @contextmanager
    def locked(self, timeout: float | None = None) -> Iterator[bool]:
        """Holds the lock. False if that is not to be had in time."""
        if self.owner == get_ident():
            yield True
            return
        if not self._acquire(timeout):
            yield False
            return
        try:
            self.owner = get_ident()
            yield True
        finally:
            self.owner = 0
            self.lock.release()

    def _acquire(self, timeout: float | None = None) -> bool:
        while True:
            try:
                taken: bool = self.lock.acquire(True, timeout)
                return taken
            except HolderDiedWarning:
                # As an exception, by the program's wish. There is nothing half done here: on to the next try.
                continue

    def append(self, record: bytes) -> None:
        """Writes and commits a record. With the lock held."""
        length = len(record)
        head, view = self.head, self.view
        while True:
            word = head[0]
            if word == _MOVED:
                raise Moved
            begin = word & _OFFSET
            if begin < _BEGIN:
                raise Moved  # the server died while it wrote all anew
            if begin + length > self.size:
                raise Full
            view[begin : begin + length] = record
            # A signal handler may have come between and appended its own; it cannot between these two.
            if head[0] == word:
                head[0] = word + length
                return

    def unseen(self) -> tuple[bool, int, bytes]:
        """Whether the log was begun anew, the head, and the records that were not seen.

        Raises:
            Busy: the server is writing it anew.
            Moved: it is of no use any more.
        """
        word = self.head[0]
        if word == _MOVED:
            raise Moved
        anew = word >> 32 != self.seen >> 32
        begin = _BEGIN if anew else self.seen & _OFFSET
        end = word & _OFFSET
        if end == 0:
            raise Busy
        if not _BEGIN <= begin <= end <= self.size:
            raise Moved  # overwritten by somebody
        return anew, word, bytes(self.view[begin:end])


def _contents(records: bytes) -> Iterator[tuple[Any, ...]]:
    position, end = 0, len(records)
    while position < end:
        length = int.from_bytes(records[position : position + 4], "little")
        position += 4 + length
        yield _decode(records[position - length : position])


class Replica(_Place):
    """What a user of a dict knows of it."""

    def __init__(self, memory: Any, lock: Any, alive: Any) -> None:
        super().__init__(memory, lock)
        self._alive_lock = alive
        self.alive = alive._is_zero
        self._take, self._give = lock.acquire, lock.release
        self._turn = Lock()
        self.items: dict[Any, bytes | None] = {}
        self.exotic = False

    def catch_up(self) -> None:
        """Applies what others have written.

        Raises:
            Busy: another thread, or what a signal handler has interrupted, is at it.
        """
        if not self._turn.acquire(False):
            raise Busy
        try:
            if _STRONG_ORDER:
                while True:
                    anew, word, records = self.unseen()
                    # Below the end of the log nothing is written but by who begins it anew.
                    if self.head[0] >> 32 == word >> 32:
                        break
                self._apply(anew, word, records)
            else:
                with self.locked():
                    self._apply(*self.unseen())
        finally:
            self._turn.release()

    def _apply(self, anew: bool, word: int, records: bytes) -> None:
        items = {} if anew else self.items
        exotic = self.exotic and not anew
        for content in _contents(records):
            if len(content) == 2:
                key, data = content
                if data is None:
                    items.pop(key, None)
                else:
                    items[key] = data
            elif content:
                items[content[0]] = None
            else:
                exotic = True
        self.items, self.exotic, self.seen = items, exotic, word

    def set(self, record: bytes) -> None:
        """Writes a record.

        Raises:
            Full, Moved: it could not.
        """
        if self.owner and self.owner == get_ident():
            self.append(record)
            return
        try:
            self._take()
        except HolderDiedWarning:
            self._acquire()
        try:
            self.owner = get_ident()
            head = self.head
            word = head[0]
            begin = word & _OFFSET
            end = begin + len(record)
            if _BEGIN <= begin and end <= self.size:
                self.view[begin:end] = record
                if head[0] == word:
                    head[0] = word + end - begin
                    return
            self.append(record)
        finally:
            self.owner = 0
            self._give()

    def delete(self, key: Any) -> bool:
        """Deletes a key; false if there is none."""
        with self.locked():
            if self.head[0] != self.seen:
                self.catch_up()
            if key not in self.items:
                return False
            record = _record(key, None)
            if record is None:
                raise Moved  # equal to a plain key, and none itself
            self.append(record)
            return True


class Log(_Place):
    """The server's side of a dict that has a log."""

    def __init__(self, target: dict[Any, Any], alive: Any) -> None:
        lock = _polyproc.SemLock()
        lock._open_lock()
        super().__init__(_polyproc.Memory(FIRST_SIZE), lock)
        self.target = target
        self.alive = alive
        self.epoch = 0
        with self.locked():
            self._begin_anew()

    def share(self) -> tuple[Any, Any, Any]:
        """What makes a replica, to be passed on to :func:`attach`."""
        return self.memory._share("Manager().dict()"), self.lock._share(), self.alive._share()

    def _catch_up(self) -> None:
        _, word, records = self.unseen()
        target = self.target
        for content in _contents(records):
            if len(content) == 2:
                key, data = content
                if data is None:
                    target.pop(key, None)
                else:
                    target[key] = _decode(data)
        self.seen = word

    @contextmanager
    def call(self, name: str, args: Any, kwds: Any, timeout: float | None) -> Iterator[list[Any] | None]:
        """Around a call on the dict: before, it is as its users have left it; after, they hear of what has changed.

        Gives a list to put the reply in; None if the lock was not to be had in time, and nothing may be called.
        """
        with self.locked(timeout) as mine:
            if not mine:
                yield None
                return
            self._catch_up()
            reply: list[Any] = []
            yield reply
            if name in _READS:
                return
            try:
                self._write(name, args, kwds, reply)
            except Full:
                self._begin_anew()
            self.seen = self.head[0]

    def _write(self, name: str, args: Any, kwds: Any, reply: list[Any]) -> None:
        if not reply or reply[0][0] != "#RETURN":
            if name not in ("__delitem__", "pop", "popitem"):  # these change all or nothing
                self._begin_anew()
        elif name in ("__setitem__", "setdefault", "__delitem__", "pop"):
            self._write_key(args[0] if args else kwds["key"])
        elif name == "popitem":
            self._write_key(reply[0][1][0])
        elif name == "update":
            for key in dict(*args, **kwds):
                self._write_key(key)
        else:
            self._begin_anew()

    def _write_key(self, key: Any) -> None:
        self.append(self._record_of(key))

    def _record_of(self, key: Any) -> bytes:
        if key not in self.target:
            record = _record(key, None)
        elif (data := _encode(self.target[key])) is None or (record := _record(key, data)) is None:
            record = _record(key)
        return record or _record() or b""

    def refill(self) -> None:
        """Begins the log anew, after somebody has found it full."""
        with self.locked():
            self._catch_up()
            if self.size < _ROOMY:
                self._move(_polyproc.Memory(4 * self.size))
            self._begin_anew()

    def _begin_anew(self) -> None:
        """Writes all that is in the dict, under the next epoch. With the lock held.

        Raises:
            Moved: it needs a larger place; this one is of no use any more.
        """
        data = b"".join([self._record_of(key) for key in self.target])
        if _BEGIN + 4 * len(data) > self.size:
            if 8 * len(data) > LARGEST_SIZE:
                raise TooLarge
            size = self.size
            while _BEGIN + 8 * len(data) > size:
                size *= 2
            self._move(_polyproc.Memory(size))
        self.epoch += 1
        # Who reads without the lock must not take the new bytes for the old: first the epoch, then the bytes, then the end.
        self.head[0] = self.epoch << 32
        self.view[_BEGIN : _BEGIN + len(data)] = data
        self.seen = self.head[0] = self.epoch << 32 | _BEGIN + len(data)

    def _move(self, memory: Any) -> None:
        self.head[0] = _MOVED
        self.memory, self.size = memory, len(memory)
        self.view = memoryview(memory).cast("B")
        self.head = self.view[:8].cast("Q")

    def close(self) -> None:
        """Sends all users to the server."""
        with self.locked():
            self.head[0] = _MOVED


class TooLarge(Exception):
    """The dict is so large that a replica for each user would cost more than it gains."""


def attach(shared: tuple[Any, Any, Any]) -> Replica:
    """The replica of a log that :meth:`Log.share` named."""
    memory, lock, alive = shared
    return Replica(_polyproc.Memory._attach(memory), _lock(lock), _lock(alive))


def _lock(shared: Any) -> Any:
    lock = _polyproc.SemLock()
    lock._attach(*shared)
    return lock


# ------------------------------------------------------------------------------------------------ the proxy's methods

#: Calls of a proxy before it asks for a replica.
USES = 32

_MISSING = object()


class DictMethods:
    """Methods of a dict's proxy that need no server, where there is a replica."""

    _replica: Replica | None = None
    _uses = 0
    _callmethod: Any
    _open_replica: Any
    _refill_replica: Any

    def _lookup(self, key: Any) -> Any:
        """The encoded value of a key, None for "ask the server", _MISSING for no such key."""
        replica = self._replica
        if replica is None:
            self._count_use()
            return None
        try:
            if replica.head[0] != replica.seen:
                replica.catch_up()
            if not replica.alive():
                raise Moved
        except Busy:
            return None
        except Moved:
            self._replica, self._uses = None, USES
            return None
        data = replica.items.get(key, _MISSING)
        if data is _MISSING and replica.exotic:
            return None
        return data

    def _count_use(self) -> None:
        self._uses += 1
        if self._uses > USES:
            self._uses = -1_000_000_000  # unless it can be had: not again
            self._replica = self._open_replica()

    def __getitem__(self, key: Any) -> Any:
        replica = self._replica
        if replica is not None and replica.head[0] == replica.seen and replica.alive():
            data = replica.items.get(key)
            if data is not None:
                return _decode(data)
        found = self._lookup(key)
        if found is None:
            return self._callmethod("__getitem__", (key,))
        if found is _MISSING:
            raise KeyError(key)
        return _decode(found)

    def get(self, *args: Any, **kwds: Any) -> Any:
        if kwds or not 1 <= len(args) <= 2:
            return self._callmethod("get", args, kwds)
        found = self._lookup(args[0])
        if found is None:
            return self._callmethod("get", args)
        if found is _MISSING:
            return args[1] if len(args) == 2 else None
        return _decode(found)

    def __contains__(self, key: Any) -> bool:
        found = self._lookup(key)
        if found is None:
            return bool(self._callmethod("__contains__", (key,)))
        return found is not _MISSING

    def __setitem__(self, key: Any, value: Any) -> None:
        replica = self._replica
        if replica is None:
            self._count_use()
        elif (data := _encode(value)) is not None and (record := _encode((key, data))) is not None:
            try:
                if not replica.alive():
                    raise Moved
                length = len(record)
                replica.set((_LENGTHS[length] if length < 256 else length.to_bytes(4, "little")) + record)
                return
            except Full:
                self._refill_replica()
            except Moved:
                self._replica, self._uses = None, USES
        self._callmethod("__setitem__", (key, value))

    def __delitem__(self, key: Any) -> None:
        replica = self._replica
        if replica is not None:
            try:
                if replica.alive() and replica.delete(key):
                    return
            except Busy:
                pass
            except Full:
                self._refill_replica()
            except Moved:
                self._replica, self._uses = None, USES
        self._callmethod("__delitem__", (key,))
