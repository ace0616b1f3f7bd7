"""Locks, semaphores, events, conditions and barriers between processes. An *own* module.

The standard library's names and meanings on the engine's objects, which know who holds them. So nobody waits for the dead:

* a lock whose holder died is given to the next in line, with a :class:`polyproc.errors.HolderDiedWarning`;
* the permits of a semaphore come back from a process that was killed, unless the program uses the semaphore as a counter
  (somebody has released what it had not acquired);
* a condition and an event forget a waiter that died; a barrier breaks when a party that was waiting dies.

They can be given to a child when it is started, and sent to running processes through polyproc's queues and connections.
"""

from __future__ import annotations

import operator
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from . import _polyproc, context, process

if TYPE_CHECKING:
    from multiprocessing.context import BaseContext

__all__ = ["Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition", "Event"]

T = TypeVar("T")

RECURSIVE_MUTEX, SEMAPHORE = 0, 1
SEM_VALUE_MAX = _polyproc.SemLock.SEM_VALUE_MAX

#: The largest count that the engine takes in one call.
_ALL = 2**32 - 1


class SemLock(_polyproc.SemLock):
    """Base of the locks and semaphores: ``acquire``, ``release`` and ``with``, which are the engine's own."""

    def __init__(self, kind: int, value: int, maxvalue: int, *, ctx: BaseContext | None) -> None:
        if kind == RECURSIVE_MUTEX:
            self._open_recursive()
        else:
            self._open_semaphore(value, maxvalue)

    @property
    def _semlock(self) -> _polyproc.SemLock:
        # The standard library's locks have a C object under this name, with _is_mine(), _get_value() and so on.
        return self

    def __getstate__(self) -> Any:
        return self._share()

    def __setstate__(self, state: Any) -> None:
        self._attach(*state)


class Semaphore(SemLock):
    """A semaphore that begins with `value` permits.

    Raises:
        TypeError: `value` is not an integer.
        ValueError: `value` is negative.
        OverflowError: `value` is larger than 2147483647.

    Example:
        >>> import polyproc as mp
        >>> semaphore = mp.Semaphore(2)
        >>> with semaphore:
        ...     semaphore.get_value()
        1
    """

    def __init__(self, value: int = 1, *, ctx: BaseContext | None) -> None:
        super().__init__(SEMAPHORE, _permits(value), SEM_VALUE_MAX, ctx=ctx)

    def get_value(self) -> int:
        """How many permits there are at this moment."""
        return self._get_value()

    def __repr__(self) -> str:
        try:
            value: Any = self._get_value()
        except Exception:
            value = "unknown"
        return f"<{type(self).__name__}(value={value})>"


class BoundedSemaphore(Semaphore):
    """A semaphore that never has more than its first `value` of permits: releasing more is a ``ValueError``.

    Example:
        >>> import polyproc as mp
        >>> semaphore = mp.BoundedSemaphore(1)
        >>> semaphore.release()
        Traceback (most recent call last):
        ValueError: semaphore or lock released too many times
    """

    def __init__(self, value: int = 1, *, ctx: BaseContext | None) -> None:
        value = _permits(value)
        SemLock.__init__(self, SEMAPHORE, value, value, ctx=ctx)

    def __repr__(self) -> str:
        try:
            value: Any = self._get_value()
        except Exception:
            value = "unknown"
        return f"<{type(self).__name__}(value={value}, maxvalue={self.maxvalue})>"


class Lock(SemLock):
    """A lock that any thread of any process may release.

    Example:
        >>> import polyproc as mp
        >>> lock = mp.Lock()
        >>> with lock:
        ...     lock.acquire(block=False)
        False
    """

    def __init__(self, *, ctx: BaseContext | None) -> None:
        self._open_lock()

    def locked(self) -> bool:
        """Whether anybody holds it."""
        return self._is_zero()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}(owner={_holder(self)[0]})>"


class RLock(SemLock):
    """A lock that the thread which holds it may acquire again, and only it releases.

    Example:
        >>> import polyproc as mp
        >>> lock = mp.RLock()
        >>> with lock, lock:
        ...     lock
        <RLock(MainProcess, 2)>
    """

    def __init__(self, *, ctx: BaseContext | None) -> None:
        super().__init__(RECURSIVE_MUTEX, 1, 1, ctx=ctx)

    def locked(self) -> bool:
        """Whether anybody holds it."""
        return self._is_zero()

    def __repr__(self) -> str:
        name, count = _holder(self)
        return f"<{type(self).__name__}({name}, {count})>"


class Condition:
    """A condition to wait for under a lock: `lock`, or an :class:`RLock` of its own.

    Raises:
        TypeError: `lock` is not one of polyproc's locks.

    Example:
        >>> import polyproc as mp
        >>> condition = mp.Condition()
        >>> with condition:
        ...     condition.wait(timeout=0)
        False
    """

    def __init__(self, lock: Any = None, *, ctx: BaseContext | None) -> None:
        self._lock: Any = lock or RLock(ctx=ctx)
        if not isinstance(getattr(self._lock, "_semlock", None), _polyproc.SemLock):
            raise TypeError(f"a condition needs a Lock or RLock of polyproc, not {type(lock).__name__} ({lock!r:.60})")
        self._native = _polyproc.Condition()
        self._make_methods()

    def _make_methods(self) -> None:
        self.acquire = self._lock.acquire
        self.release = self._lock.release
        native = self._native
        # The standard library counts with three semaphores; these tell the same of the engine's condition.
        self._sleeping_count = _Count(lambda: native.waiters)
        self._woken_count = _Count(lambda: native.notified)
        self._wait_semaphore = _Count(lambda: native.notified)

    def __getstate__(self) -> Any:
        return self._lock, self._native._share(type(self).__name__)

    def __setstate__(self, state: Any) -> None:
        self._lock, shared = state
        self._native = _polyproc.Condition._attach(shared)
        self._make_methods()

    def __enter__(self) -> bool:
        entered: bool = self._lock.__enter__()
        return entered

    def __exit__(self, *exception: object) -> None:
        self._lock.__exit__(*exception)

    def __repr__(self) -> str:
        try:
            waiters: Any = self._native.waiters - self._native.notified
        except Exception:
            waiters = "unknown"
        return f"<{type(self).__name__}({self._lock}, {waiters})>"

    def wait(self, timeout: float | None = None) -> bool:
        """Releases the lock, waits to be notified, for at most `timeout` seconds, and acquires the lock again.

        Returns:
            Whether it was notified.

        Raises:
            AssertionError: the calling thread does not hold the lock.
        """
        return self._native.wait(self._lock._semlock, timeout)

    def wait_for(self, predicate: Callable[[], T], timeout: float | None = None) -> T:
        """Waits until ``predicate()`` is true, for at most `timeout` seconds, and returns its last value."""
        result = predicate()
        if result:
            return result
        end = None if timeout is None else time.monotonic() + timeout
        left = None
        while not result:
            if end is not None:
                left = end - time.monotonic()
                if left <= 0:
                    break
            self.wait(left)
            result = predicate()
        return result

    def notify(self, n: int = 1) -> None:
        """Wakes at most `n` of those who wait.

        Raises:
            AssertionError: the calling thread does not hold the lock.
        """
        assert self._lock._semlock._is_mine(), "lock is not owned"
        self._native.notify(min(max(operator.index(n), 0), _ALL))

    def notify_all(self) -> None:
        """Wakes all who wait.

        Raises:
            AssertionError: the calling thread does not hold the lock.
        """
        self.notify(n=sys.maxsize)


class _Count:
    """What a condition shows where the standard library's has a semaphore."""

    def __init__(self, value: Callable[[], int]) -> None:
        self.get_value = self._get_value = value

    @property
    def _semlock(self) -> _Count:
        return self


class Event(_polyproc.Event):
    """A flag that processes wait for. Setting it never waits, whatever became of those who waited.

    Example:
        >>> import polyproc as mp
        >>> event = mp.Event()
        >>> event.wait(timeout=0)
        False
        >>> event.set()
        >>> event.wait()
        True
    """

    def __init__(self, *, ctx: BaseContext | None) -> None:
        self._open()

    def __getstate__(self) -> Any:
        return self._share()

    def __setstate__(self, state: Any) -> None:
        self._attach(state)

    def __repr__(self) -> str:
        return f"<{type(self).__qualname__} at {id(self):#x} {'set' if self.is_set() else 'unset'}>"


class Barrier(threading.Barrier):
    """A point where `parties` processes or threads wait for each other.

    Args:
        parties: How many it takes.
        action: Called by the last that comes, before the others go on.
        timeout: Of each ``wait()`` that names none, in seconds.

    Raises:
        TypeError: `parties` is not an integer.
        ValueError: `parties` is less than 1.

    Example:
        >>> import polyproc as mp
        >>> barrier = mp.Barrier(1)
        >>> barrier.wait()
        0
    """

    def __init__(
        self,
        parties: int,
        action: Callable[[], object] | None = None,
        timeout: float | None = None,
        *,
        ctx: BaseContext | None,
    ) -> None:
        try:
            parties = operator.index(parties)
        except TypeError:
            raise TypeError(
                f"parties must be an integer, not {type(parties).__name__} ({parties!r:.60})"
            ) from None
        if not 1 <= parties <= _ALL:
            raise ValueError(f"parties must be from 1 to {_ALL}, not {parties}")
        self._action, self._timeout = action, timeout
        self._native = _polyproc.Barrier(parties)

    def __getstate__(self) -> Any:
        return self._action, self._timeout, self._native._share(type(self).__name__)

    def __setstate__(self, state: Any) -> None:
        self._action, self._timeout, shared = state
        self._native = _polyproc.Barrier._attach(shared)

    def wait(self, timeout: float | None = None) -> int:
        """Waits until all parties have come.

        Returns:
            How many were here before, from 0: each party of a round gets another number.

        Raises:
            threading.BrokenBarrierError: the barrier is or was broken (a party that waited died, `timeout` seconds have
                passed, the action raised, or somebody called :meth:`abort`), or was reset.
        """
        return self._native.wait(self._action, self._timeout if timeout is None else timeout)

    def reset(self) -> None:
        """Makes the barrier as new. Those who wait get a ``BrokenBarrierError``."""
        self._native.reset()

    def abort(self) -> None:
        """Breaks the barrier: those who wait, and those who come, get a ``BrokenBarrierError`` until it is reset."""
        self._native.abort()

    @property
    def parties(self) -> int:
        """How many it takes."""
        return self._native.parties

    @property
    def n_waiting(self) -> int:
        """How many are waiting."""
        return self._native.waiting

    @property
    def broken(self) -> bool:
        """Whether it is broken."""
        return self._native.broken

    def __repr__(self) -> str:
        where = f"<{type(self).__module__}.{type(self).__qualname__} at {id(self):#x}"
        return f"{where}: broken>" if self.broken else f"{where}: waiters={self.n_waiting}/{self.parties}>"


def _permits(value: int) -> int:
    try:
        permits = operator.index(value)
    except TypeError:
        raise TypeError(f"value must be an integer, not {type(value).__name__} ({value!r:.60})") from None
    if permits < 0:
        raise ValueError(f"a semaphore cannot begin with {permits} permits: value must be from 0 to {SEM_VALUE_MAX}")
    if permits > SEM_VALUE_MAX:
        raise OverflowError(f"a semaphore has at most {SEM_VALUE_MAX} permits, not {permits}")
    return permits


def _holder(lock: SemLock) -> tuple[str, int | str]:
    """Who holds a lock, and how often, in the standard library's words."""
    try:
        if lock._is_mine():
            name = process.current_process().name
            if threading.current_thread().name != "MainThread":
                name += "|" + threading.current_thread().name
            return name, lock._count()
        if not lock._is_zero():
            return "None", 0
        return "SomeOtherThread" if lock._count() > 0 else "SomeOtherProcess", "nonzero"
    except Exception:
        return "unknown", "unknown"
