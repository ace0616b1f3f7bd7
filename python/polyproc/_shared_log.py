"""Objects of a manager in the session's memory: read and written by their users without asking the server. An *own* module.

A dict, list, Namespace or Value that is used much gets a *log* in shared memory, of which every user keeps a replica:

```text
 head    8 bytes: epoch (32) | end of the log (32), 0 while the server writes it anew. One store of it commits a
         record, or tells to read all anew
 records 4 bytes of length, and the plain codec's bytes of a tuple, which :mod:`polyproc._shared_dict` and
         :mod:`polyproc._shared_list` define
```

To write is to append under the lock, so to read is to compare the head with the one seen last, to apply what is new,
and to decode the value: each read gives a copy of its own, as from the server. Who writes what depends on what is there (an
item of a list) appends on the condition that the head is still the one that was seen. Everything else is done by the server,
which first applies the records that it has not seen, and appends what its call has changed.

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

__all__ = ["Log", "Logged", "Moved", "Replica"]

_encode, _decode = _polyproc.encode_plain, _polyproc.decode_plain

_BEGIN = 64  # of the first record
_MOVED = 2**64 - 1  # head of a log that is of no use any more
_OFFSET = 2**32 - 1
FIRST_SIZE, LARGEST_SIZE = 16 * 1024, 4 * 1024 * 1024
_ROOMY = 256 * 1024  # of a log that is filled again and again: so many writes go by before the server is asked

#: What a journal answers where it has not written: the codec refused, no room, of no use any more, others came before.
REFUSED, FULL, MOVED, CHANGED = 0, -1, -2, -3

#: How often somebody tries to be the first to write, before the server is asked to do it.
TRIES = 100

#: Whether a processor sees the writes of another in their order; elsewhere the lock sees to it.
_STRONG_ORDER = machine() in ("x86_64", "AMD64", "i686")


class Moved(Exception):
    """The log is no longer where it was: ask the server."""


class Busy(Exception):
    """Let the server do it."""


class Full(Exception):
    """There is no room for the record: the server has to begin the log anew."""


def record_of(*content: Any) -> bytes | None:
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


class Replica(_Place):
    """What a user of an object knows of it. How it is kept is for a subclass to say."""

    def __init__(self, memory: Any, lock: Any, alive: Any) -> None:
        super().__init__(memory, lock)
        self._alive_lock = alive
        self.alive = alive._is_zero
        self.journal = _polyproc.Journal(memory, lock)
        self._turn = Lock()

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
                self._apply(anew, word, _polyproc.decode_records(records))
            else:
                with self.locked():
                    anew, word, records = self.unseen()
                    self._apply(anew, word, _polyproc.decode_records(records))
        finally:
            self._turn.release()

    def _apply(self, anew: bool, word: int, contents: list[Any]) -> None:
        """Applies records, to what is known or to nothing, and then sets ``seen``."""
        raise NotImplementedError


class Log(_Place):
    """The server's side of an object that has a log. What the records mean is for a subclass to say."""

    #: What changes nothing.
    reads: frozenset[str] = frozenset()

    def __init__(self, target: Any, alive: Any) -> None:
        lock = _polyproc.SemLock()
        lock._open_lock()
        super().__init__(_polyproc.Memory(FIRST_SIZE), lock)
        self.target = target
        self.alive = alive
        self.epoch = 0
        with self.locked():
            self._begin_anew()

    def _absorb(self, contents: list[Any]) -> None:
        """Applies what users have written to the object."""
        raise NotImplementedError

    def _write(self, name: str, args: Any, kwds: Any, reply: list[Any]) -> None:
        """Appends what a call has changed, or begins anew."""
        raise NotImplementedError

    def _snapshot(self) -> bytes:
        """The records that make the object out of nothing."""
        raise NotImplementedError

    def share(self) -> tuple[Any, Any, Any]:
        """What makes a replica, to be passed on to :func:`attach`."""
        return self.memory._share("an object of a manager"), self.lock._share(), self.alive._share()

    def _catch_up(self) -> None:
        _, word, records = self.unseen()
        self._absorb(_polyproc.decode_records(records))
        self.seen = word

    @contextmanager
    def call(self, name: str, args: Any, kwds: Any, timeout: float | None) -> Iterator[list[Any] | None]:
        """Around a call on the object: before, it is as its users have left it; after, they hear of what has changed.

        Gives a list to put the reply in; None if the lock was not to be had in time, and nothing may be called.
        """
        with self.locked(timeout) as mine:
            if not mine:
                yield None
                return
            self._catch_up()
            reply: list[Any] = []
            yield reply
            if name in self.reads:
                return
            try:
                self._write(name, args, kwds, reply)
            except Full:
                self._begin_anew()
            self.seen = self.head[0]

    def refill(self) -> None:
        """Begins the log anew, after somebody has found it full."""
        with self.locked():
            self._catch_up()
            if self.size < _ROOMY:
                self._move(_polyproc.Memory(4 * self.size))
            self._begin_anew()

    def _begin_anew(self) -> None:
        """Writes all that is in the object, under the next epoch. With the lock held.

        Raises:
            Moved: it needs a larger place; this one is of no use any more.
        """
        data = self._snapshot()
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
    """The object is so large that a replica for each user would cost more than it gains."""


def attach(kind: type[Replica], shared: tuple[Any, Any, Any]) -> Replica:
    """The replica of a log that :meth:`Log.share` named."""
    memory, lock, alive = shared
    return kind(_polyproc.Memory._attach(memory), _lock(lock), _lock(alive))


def _lock(shared: Any) -> Any:
    lock = _polyproc.SemLock()
    lock._attach(*shared)
    return lock


# ------------------------------------------------------------------------------------------------ proxies

#: Calls of a proxy before it asks for a replica.
USES = 32


class Logged:
    """What the proxies of objects with a log have in common."""

    _replica: Any = None
    _replica_type: type[Replica]
    _uses = 0
    _callmethod: Any
    _open_replica: Any
    _refill_replica: Any

    def _current(self) -> Any:
        """The replica, as of now; None for "ask the server"."""
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
            self._lose_replica()
            return None
        return replica

    def _count_use(self) -> None:
        self._uses += 1
        if self._uses > USES:
            self._uses = -1_000_000_000  # unless it can be had: not again
            self._replica = self._open_replica()

    def _lose_replica(self) -> None:
        self._replica, self._uses = None, USES

    def _written(self, answer: int) -> bool:
        """Whether a journal has written; otherwise the server is to do it, and has room for it."""
        if answer > 0:
            return True
        if answer == FULL:
            self._refill_replica()
        elif answer == MOVED:
            self._lose_replica()
        return False
