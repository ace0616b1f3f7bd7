"""Queues between processes: the standard library's names and meanings on the engine's ring.

A :meth:`Queue.put` that has returned is delivered: the item lies in shared memory, and there is no feeder thread. So a
process may end, or be killed, right after; joining a process before reading what it put does not hang; and what cannot
be pickled raises in the caller of ``put()``.
"""

from __future__ import annotations

import operator
import threading
import traceback
from functools import cached_property
from queue import Empty as Empty
from queue import Full as Full  # both are taken from here by loky
from typing import TYPE_CHECKING, Any, TypeVar

from . import _polyproc
from .connection import wait

if TYPE_CHECKING:
    from multiprocessing.context import BaseContext

__all__ = ["Queue", "SimpleQueue", "JoinableQueue"]

T = TypeVar("T")

#: The end of what a feeder thread has to do. Loky, and joblib with it, import it.
_sentinel = object()

#: The largest bound of a queue, as the standard library's semaphores have it.
MAXSIZE_MAX = 2**31 - 1


def _give_way(cls: type[Any]) -> None:
    """Has a subclass that relies on the standard library's private machinery run on what it expects."""
    if cls.__module__.startswith(f"{__package__}."):
        return
    from ._queue_variants import give_way

    give_way(cls)


class Queue(_polyproc.Queue[T]):
    """A first-in, first-out queue that any number of processes and threads may put into and get from.

    Args:
        maxsize: How many items fit before ``put()`` waits; zero and below means no bound.
        ctx: The context that makes it; ``polyproc.Queue()`` fills it in.

    Raises:
        TypeError: `maxsize` is not an integer.
        ValueError: `maxsize` is larger than 2147483647.

    Example:
        >>> import polyproc as mp
        >>> queue = mp.Queue(maxsize=2)
        >>> queue.put("hello")
        >>> queue.get()
        'hello'
    """

    # What the standard library's executors set; there is no pipe here that could break.
    _ignore_epipe = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        _give_way(cls)

    def __init__(self, maxsize: int = 0, *, ctx: BaseContext) -> None:
        self._open(_bound(maxsize))

    def __getstate__(self) -> Any:
        return (self._ignore_epipe, self._share())

    def __setstate__(self, state: Any) -> None:
        self._ignore_epipe, shared = state
        self._attach(shared)

    def empty(self) -> bool:
        """Whether there is nothing to get at this moment.

        Raises:
            OSError: the queue is closed.
        """
        if self._closed and self._used:
            raise OSError("handle is closed")
        return self._empty()

    def close(self) -> None:
        """Says that this process will put and get no more. What was put stays for the others; closing twice is fine."""
        self._close()

    def join_thread(self) -> None:
        """Does nothing but ask that the queue is closed: what was put is delivered already."""
        assert self._closed, f"Queue {self!r} not closed"

    def cancel_join_thread(self) -> None:
        """Does nothing: there is no thread, and nothing that could be lost."""

    @property
    def _maxsize(self) -> int:
        return self.maxsize or MAXSIZE_MAX

    @cached_property
    def _reader(self) -> QueueReader:
        return QueueReader(self)

    @cached_property
    def _writer(self) -> QueueWriter:
        return QueueWriter(self)

    def _on_queue_feeder_error(self, e: BaseException, obj: object) -> None:
        """Hook of the standard library: called, where a subclass overrides it, when an item cannot be pickled.

        Without such a subclass ``put()`` raises. With one, a thread puts the items: see ``polyproc._queue_variants``.
        """
        traceback.print_exc()

    def _terminate_broken(self) -> None:
        self.close()
        self.join_thread()


class JoinableQueue(Queue[T]):
    """A :class:`Queue` that knows how many of its items are still being worked on.

    Example:
        >>> import polyproc as mp
        >>> queue = mp.JoinableQueue()
        >>> queue.put("task")
        >>> queue.get()
        'task'
        >>> queue.task_done()
        >>> queue.join()
    """

    def task_done(self) -> None:
        """Says that an item which was got is finished.

        Raises:
            ValueError: called more often than items were put.
        """
        self._task_done()

    def join(self) -> None:
        """Waits until every item that was put is finished."""
        self._join_tasks()


class SimpleQueue(_polyproc.Queue[T]):
    """A queue without bound, timeouts or task counting: put, get, empty and close.

    Example:
        >>> import polyproc as mp
        >>> queue = mp.SimpleQueue()
        >>> queue.put(1)
        >>> queue.get()
        1
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        _give_way(cls)

    def __init__(self, *, ctx: BaseContext) -> None:
        self._open(0)

    def __getstate__(self) -> Any:
        return self._share()

    def __setstate__(self, state: Any) -> None:
        self._attach(state)

    def get(self) -> T:  # type: ignore[override]
        """Removes and returns the next item; waits until there is one.

        Raises:
            OSError: the queue is closed.
        """
        if self._closed:
            raise OSError("handle is closed")
        return super().get()

    def put(self, obj: T) -> None:  # type: ignore[override]
        """Appends `obj`.

        Raises:
            OSError: the queue is closed.
        """
        if self._closed:
            raise OSError("handle is closed")
        super().put(obj)

    def empty(self) -> bool:
        """Whether there is nothing to get at this moment.

        Raises:
            OSError: the queue is closed.
        """
        if self._closed:
            raise OSError("handle is closed")
        return self._empty()

    def close(self) -> None:
        """Says that this process will put and get no more; closing twice is fine."""
        self._close()

    @cached_property
    def _reader(self) -> QueueReader:
        return QueueReader(self)

    @cached_property
    def _writer(self) -> QueueWriter:
        return QueueWriter(self)

    # The standard library's pool takes it before it drains the queue; here a get needs no lock of Python's.
    @cached_property
    def _rlock(self) -> threading.Lock:
        return threading.Lock()


class _QueueEnd:
    """What a queue shows where the standard library's has a Connection."""

    def __init__(self, queue: _polyproc.Queue[Any]) -> None:
        self._queue = queue
        self._shut = False

    @property
    def closed(self) -> bool:
        return self._shut or self._queue._closed

    def close(self) -> None:
        self._shut = True

    def _check_closed(self) -> None:
        if self.closed:
            raise OSError("handle is closed")

    def fileno(self) -> int:
        """A descriptor that is readable while the queue is not empty. It is made at the first call."""
        self._check_closed()
        return self._queue._bell()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class QueueReader(_QueueEnd):
    """The reading side of a queue: something to wait for with :func:`polyproc.connection.wait`."""

    readable, writable = True, False

    def poll(self, timeout: float | None = 0.0) -> bool:
        """Whether there is an item, waiting up to `timeout` seconds for one (None: as long as it takes)."""
        self._check_closed()
        if timeout is None or timeout > 0:
            return bool(wait([self], timeout))
        return not self._queue._empty()

    def _holds_item(self) -> bool:
        """Asked by :func:`polyproc.connection.wait`, which knows no queues."""
        return not self._queue._empty()

    def recv(self) -> Any:
        """Removes and returns the next item."""
        self._check_closed()
        return _polyproc.Queue.get(self._queue)

    def recv_bytes(self, maxlength: int | None = None) -> bytes:
        """Removes the next item and returns it pickled."""
        self._check_closed()
        data = self._queue._get_bytes()
        if maxlength is not None and len(data) > maxlength:
            self.close()
            raise OSError("bad message length")
        return data


class QueueWriter(_QueueEnd):
    """The writing side of a queue."""

    readable, writable = False, True

    def send(self, obj: object) -> None:
        """Appends `obj`."""
        self._check_closed()
        _polyproc.Queue.put(self._queue, obj)

    def send_bytes(self, buf: Any, offset: int = 0, size: int | None = None) -> None:
        """Appends the object whose pickle `buf` is."""
        self._check_closed()
        data = memoryview(buf).cast("B")
        self._queue._put_bytes(data[offset : None if size is None else offset + size])


def _bound(maxsize: int) -> int:
    try:
        bound = operator.index(maxsize)
    except TypeError:
        raise TypeError(f"maxsize must be an integer, not {type(maxsize).__name__} ({maxsize!r:.60})") from None
    if bound > MAXSIZE_MAX:
        raise ValueError(f"maxsize must be at most {MAXSIZE_MAX}, not {bound}; zero or less means no bound")
    return max(bound, 0)
