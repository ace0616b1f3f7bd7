"""What stands under subclasses of the queues that replace the standard library's private machinery. An *own* module.

* :class:`FedQueue`: for those that override only the hook for what cannot be pickled, as ``concurrent.futures`` does. The
  items travel through the engine's ring, and a thread pickles them, as in the standard library: the hook may take locks
  that the caller of ``put()`` holds.
* The standard library's own queues, over stream connections: for those that override how items are pickled and sent, or
  reach for the pipe, the locks and the buffer, as loky does.

Loaded when the first such subclass is made.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable
from queue import Full
from types import FunctionType, ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar

from . import _polyproc, connection, context, queues, util
from ._borrowed import code_of

if TYPE_CHECKING:
    from multiprocessing.context import BaseContext

__all__: list[str] = []

T = TypeVar("T")

HOOK = "_on_queue_feeder_error"

# How the standard library's queues work inside: to override or to use one of these is to rely on that.
_MACHINERY = frozenset(
    "_after_fork _buffer _feed _finalize_close _finalize_join _jointhread _notempty _opid _poll _recv_bytes _reset _rlock "
    "_sem _send_bytes _start_thread _thread _wlock".split()
)


class FedQueue(queues.Queue[T]):
    """A queue whose items are pickled and put by a thread of this process, in order."""

    def __init__(self, maxsize: int = 0, *, ctx: BaseContext) -> None:
        super().__init__(maxsize, ctx=ctx)
        #: The room that is left, counting what is still in the buffer; None without a bound.
        self._room = ctx.BoundedSemaphore(self.maxsize) if self.maxsize else None
        self._prepare()

    def __getstate__(self) -> Any:
        return super().__getstate__(), self._room

    def __setstate__(self, state: Any) -> None:
        state, self._room = state
        super().__setstate__(state)
        self._prepare()

    def _prepare(self) -> None:
        self._forget()
        util.register_after_fork(self, FedQueue._forget)

    def _forget(self) -> None:
        self._waiting: deque[Any] = deque()
        self._changed = threading.Condition(threading.Lock())
        self._feeder: threading.Thread | None = None
        self._over = self._left_behind = False
        self._end: Any = None
        self._finish: Any = None

    @property
    def _closed(self) -> bool:
        return self._over

    def put(self, obj: T, block: bool = True, timeout: float | None = None) -> None:  # type: ignore[override]
        """As of any queue, but returns before the item is pickled."""
        if self._closed:
            raise ValueError(f"Queue {self!r} is closed")
        if self._room is not None and not self._room.acquire(block, timeout):
            raise Full
        with self._changed:
            if self._feeder is None:
                self._start_feeder()
            self._waiting.append(obj)
            self._changed.notify()

    def put_nowait(self, obj: T) -> None:
        """As of any queue, but returns before the item is pickled."""
        self.put(obj, False)

    def get(self, block: bool = True, timeout: float | None = None) -> T:  # type: ignore[override]
        """Removes and returns the next item, as of any queue."""
        if self._closed:
            raise ValueError(f"Queue {self!r} is closed")
        if self._room is None:
            return super().get(block, timeout)
        item: T = self._get_and(self._room.release, block, timeout)
        return item

    def get_nowait(self) -> T:
        """Removes and returns the next item if there is one."""
        return self.get(False)

    def qsize(self) -> int:
        """How many items were put and not got."""
        if self._room is None:
            return super().qsize() + len(self._waiting)
        return self.maxsize - self._room.get_value()

    def full(self) -> bool:
        """Whether the bound is reached."""
        return self._room is not None and self._room.get_value() == 0

    def close(self) -> None:
        """Says that this process will put and get no more; what was put is still sent."""
        self._over = True
        if self._end is not None:
            end, self._end = self._end, None
            end()

    def join_thread(self) -> None:
        """Waits until all that was put is sent. Call :meth:`close` first."""
        super().join_thread()
        if self._finish is not None:
            self._finish()

    def cancel_join_thread(self) -> None:
        """Lets this process end without sending what is not sent yet."""
        self._left_behind = True
        if self._finish is not None:
            self._finish.cancel()

    def _start_feeder(self) -> None:
        # The thread knows the queue's parts only: it ends when the queue is dropped.
        feeder = threading.Thread(
            target=_feed,
            args=(self._waiting, self._changed, self._twin(), self._room, self._on_queue_feeder_error),
            name="QueueFeederThread",
            daemon=True,
        )
        feeder.start()  # raises where the interpreter is ending
        self._feeder = feeder
        if not self._left_behind:
            self._finish = util.Finalize(feeder, _join, [weakref.ref(feeder)], exitpriority=-5)
        self._end = util.Finalize(self, _tell_to_end, [self._waiting, self._changed], exitpriority=10)


def _feed(
    waiting: deque[Any],
    changed: threading.Condition,
    ring: _polyproc.Queue[Any],
    room: Any,
    on_error: Callable[[BaseException, object], None],
) -> None:
    while True:
        with changed:
            while not waiting:
                changed.wait()
            obj = waiting.popleft()
        if obj is queues._sentinel:
            return
        try:
            ring.put(obj)
        except Exception as error:
            if util.is_exiting():
                util.info("error in queue thread: %s", error)
                return
            if room is not None:
                room.release()
            on_error(error, obj)
        del obj


def _join(reference: weakref.ref[threading.Thread]) -> None:
    if (feeder := reference()) is not None:
        feeder.join()


def _tell_to_end(waiting: deque[Any], changed: threading.Condition) -> None:
    with changed:
        waiting.append(queues._sentinel)
        changed.notify()


def give_way(cls: type[Any]) -> None:
    """Puts what it needs under a new subclass of a queue that replaces private machinery; leaves others alone."""
    own = set(vars(cls))
    touched = own & _MACHINERY
    for function in vars(cls).values():
        if isinstance(function, FunctionType):
            touched |= _MACHINERY.intersection(function.__code__.co_names)
    if HOOK in own and issubclass(cls, queues.JoinableQueue):
        touched.add(HOOK)
    if touched:
        variants = _on_standard()
        util.debug("%s relies on %s: it runs on the standard library's queue", cls.__qualname__, ", ".join(sorted(touched)))
    elif HOOK in own:
        variants = {queues.Queue: FedQueue}
    else:
        return
    cls.__bases__ = tuple(variants.get(base, base) for base in cls.__bases__)


_made: dict[type[Any], type[Any]] = {}


def _on_standard() -> dict[type[Any], type[Any]]:
    """The standard library's queues again, under polyproc's classes, over pipes that any process understands."""
    if not _made:
        module = ModuleType(f"{__package__}._queues_on_standard", queues.__doc__)
        module.__package__ = __package__
        exec(code_of("queues"), vars(module))
        vars(module).update(connection=SimpleNamespace(Pipe=connection._stream_pipe), _sentinel=queues._sentinel)
        for name in queues.__all__:
            _made[getattr(queues, name)] = _again(getattr(queues, name), getattr(module, name))
    return _made


def _again(ours: type[Any], standard: type[Any]) -> type[Any]:
    # What ours computes are plain attributes there.
    body: dict[str, Any] = {"_maxsize": 0, "_closed": False, "_reader": None, "_writer": None, "_rlock": None}
    for base in reversed(standard.__mro__[:-1]):
        body |= {name: value for name, value in vars(base).items() if name not in ("__dict__", "__weakref__", "__module__")}
    return type(ours.__name__, (ours,), body | {"__module__": __name__})
