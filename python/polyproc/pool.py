"""Pools of worker processes, on the engine's ledger. An *own* module; ``ThreadPool`` is the standard library's.

``Pool`` is a subclass of the standard library's and behaves as it does, with these differences:

* A worker that dies fails the one task that it ran, with :class:`polyproc.WorkerDiedError`; it is replaced, and all other
  tasks are done.
* What cannot be sent, rebuilt or started is an error of ``get()``, never a hang.
* ``terminate()`` ends workers that ignore SIGTERM as well, in bounded time.
* ``imap`` and ``imap_unordered`` draw from their iterable only a little ahead of what is consumed.
* Tasks may start processes of their own.

A subclass that overrides the private machinery of the standard pool (joblib's does) runs on the standard library's
implementation, over polyproc's processes and queues.
"""

from __future__ import annotations

import os
import select
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from . import _polyproc, util
from . import _pool_errors as _pool_errors  # loaded before the first fork: a fork in the middle of an import hangs
from ._pool_worker import Place, work
from ._borrowed import standard

if TYPE_CHECKING:
    from multiprocessing import pool as _standard
else:
    _standard = standard("pool")

__all__ = ["Pool", "ThreadPool"]

_T = TypeVar("_T")

INIT, RUN, CLOSE, TERMINATE = "INIT", "RUN", "CLOSE", "TERMINATE"

MaybeEncodingError = _standard.MaybeEncodingError  # type: ignore[attr-defined]
RemoteTraceback = _standard.RemoteTraceback  # type: ignore[attr-defined]
ExceptionWithTraceback = _standard.ExceptionWithTraceback  # type: ignore[attr-defined]
mapstar = _standard.mapstar  # type: ignore[attr-defined]
starmapstar = _standard.starmapstar  # type: ignore[attr-defined]

#: Seconds that workers with nothing to do have to end by themselves, before SIGTERM.
GRACE = 0.5

#: Seconds that workers have after SIGTERM, before SIGKILL.
PATIENCE = 1.0

#: Workers that may end one after another before they are ready, beside one for each of the pool's processes.
TOLERANCE = 2

#: A chunk size that the extension module chooses, by how long tasks take.
_AUTOMATIC = 0

#: What nobody can change while its items are being sent.
_UNCHANGING = (tuple, range)

_ON_ERROR = {"raise": 0, "return": 1, "skip": 2}


class ApplyResult(_standard.ApplyResult):  # type: ignore[type-arg]
    """The class of what ``apply_async`` returns, for ``isinstance``; the objects are the extension module's."""


class MapResult(_standard.MapResult, ApplyResult):  # type: ignore[type-arg]
    """The class of what ``map_async`` returns, for ``isinstance``."""


AsyncResult = ApplyResult
worker = work
IMapIterator = _polyproc.IMapIterator
IMapUnorderedIterator = _polyproc.IMapIterator


class Pool(_standard.Pool):
    """A pool of ``processes`` workers (as many as there are CPUs by default).

    ``initializer(*initargs)`` runs in each worker first. After ``maxtasksperchild`` tasks a worker is replaced by a fresh
    one. ``context`` is what the workers are started with.

    Use it in a ``with`` block, which terminates it at its end, or call :meth:`close` and :meth:`join`.

    >>> import polyproc as mp
    >>> with mp.Pool(2) as pool:
    ...     pool.map(abs, [-1, 2, -3])
    [1, 2, 3]
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        _give_way(cls)

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: Any = None,
    ) -> None:
        # Set first: __del__ looks at them even if something below raises.
        self._pool: list[Any] = []
        self._state = INIT
        self._owner = os.getpid()
        if context is None:
            from .context import _default_context

            context = _default_context.get_context()
        self._ctx = context
        if processes is None:
            processes = os.cpu_count() or 1
        if processes < 1:
            raise ValueError("Number of processes must be at least 1")
        if maxtasksperchild is not None and (not isinstance(maxtasksperchild, int) or maxtasksperchild <= 0):
            raise ValueError("maxtasksperchild must be a positive int or None")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        self._processes = processes
        self._initializer = initializer
        self._initargs = tuple(initargs)
        self._maxtasksperchild = maxtasksperchild
        self._desk = _polyproc.Desk(min(processes, 8) + TOLERANCE)
        self._threads: list[threading.Thread] = []
        self._keeping = threading.RLock()
        try:
            self._repopulate_pool()
        except Exception:
            for worker in self._pool:
                if worker.exitcode is None:
                    worker.terminate()
            for worker in self._pool:
                worker.join()
            raise
        self._desk.set_keeper(_weakly(self._keep))
        self._terminate = util.Finalize(
            self,
            _terminate_pool,
            args=(self._desk, self._pool, self._threads, self._keeping, self._owner),
            exitpriority=15,
        )
        self._state = RUN

    def __del__(self, _warn: Any = warnings.warn, RUN: str = RUN, getpid: Any = os.getpid) -> None:
        if getattr(self, "_state", None) == RUN and getattr(self, "_owner", None) == getpid():
            _warn(f"unclosed running multiprocessing pool {self!r}", ResourceWarning, source=self)

    def _check_running(self) -> None:
        if self._state != RUN:
            raise ValueError("Pool not running")

    @property
    def _cache(self) -> dict[int, Any]:
        return dict.fromkeys(self._desk.jobs())

    # ------------------------------------------------------------------------------------------------ workers

    def _repopulate_pool(self) -> None:
        """Starts workers until there are as many as there should be."""
        for _ in range(self._processes - len(self._pool)):
            seat = self._desk.open_seat(self._maxtasksperchild)
            try:
                worker = self._ctx.Process(
                    target=work, args=(Place(seat), self._initializer, self._initargs, self._maxtasksperchild)
                )
                worker.name = worker.name.replace("Process", "PoolWorker")
                worker.daemon = True
                worker.start()
            except BaseException:
                seat.give_back()
                raise
            worker._seat = seat
            self._pool.append(worker)
            popen = getattr(worker, "_popen", None)
            child = getattr(popen, "_child", None)
            if isinstance(child, _polyproc.Child):
                seat.watch(child)
            elif popen is not None:
                worker._watched = _polyproc.Child(worker.pid, worker.name)
                seat.watch(worker._watched)

    def _keep(self) -> None:
        """Collects workers that have ended and starts others in their place. Called by whoever notices."""
        with self._keeping:
            for worker in [worker for worker in self._pool if _has_ended(worker)]:
                worker.join()
                if worker.exitcode is not None:
                    self._desk.note_exit(worker.pid, worker.exitcode)
                self._pool.remove(worker)
            if self._state == RUN or (self._state == CLOSE and self._desk.jobs()):
                self._repopulate_pool()

    def _start_thread(self, name: str, target: Callable[..., object], *args: Any) -> None:
        if any(thread.name == name for thread in self._threads):
            return
        thread = threading.Thread(target=target, args=args, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _in_background(self, *callbacks: object) -> None:
        """Nobody may wait for what is submitted now: the pool's own threads have to."""
        self._start_thread("polyproc-pool", self._desk.run_pump)
        if any(callback is not None for callback in callbacks):
            self._start_thread("polyproc-callbacks", self._desk.run_calls, _call)

    # ------------------------------------------------------------------------------------------------ tasks

    def apply(self, func: Callable[..., _T], args: Iterable[Any] = (), kwds: Any = {}) -> _T:
        """``func(*args, **kwds)`` in a worker."""
        self._check_running()
        return self._desk.apply(func, args, kwds).get()  # type: ignore[no-any-return]

    def apply_async(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] = (),
        kwds: Any = {},
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        *,
        timeout: float | None = None,
        retries: int = 0,
        error_retries: int = 0,
    ) -> Any:
        """Has ``func(*args, **kwds)`` done in a worker, and returns at once an object whose ``get()`` gives the result.

        The callbacks are called with the result, or the exception, in a thread of this process. The object's ``cancel()``
        gives the task up.

        A task that runs longer than ``timeout`` seconds is ended, with its worker. One whose worker died in it is done
        again up to ``retries`` times, one that raised up to ``error_retries`` times; neither is without being asked for.
        """
        self._check_running()
        if len(self._threads) < 2:
            self._in_background(callback, error_callback)
        if timeout is None and not retries and not error_retries:
            return self._desk.apply(func, args, kwds, callback, error_callback)
        policy = _policy(timeout, retries, error_retries)
        return self._desk.apply(func, args, kwds, callback, error_callback, policy)

    def map(
        self,
        func: Callable[[Any], _T],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        *,
        on_error: str = "raise",
        timeout: float | None = None,
        retries: int = 0,
        error_retries: int = 0,
    ) -> list[_T]:
        """``[func(item) for item in iterable]``, the items spread over the workers.

        If some fail, the others are done all the same; then the first error is raised, or, with ``on_error="return"``,
        stands in the list in place of the result, or, with ``"skip"``, is left out. ``timeout``, ``retries`` and
        ``error_retries`` are those of each item's task: see :meth:`apply_async`.
        """
        policy = _policy(timeout, retries, error_retries)
        return self._submit(func, iterable, False, chunksize, on_error, policy).get()  # type: ignore[no-any-return]

    def starmap(
        self,
        func: Callable[..., _T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        *,
        on_error: str = "raise",
        timeout: float | None = None,
        retries: int = 0,
        error_retries: int = 0,
    ) -> list[_T]:
        """``[func(*item) for item in iterable]``, otherwise as :meth:`map`."""
        policy = _policy(timeout, retries, error_retries)
        return self._submit(func, iterable, True, chunksize, on_error, policy).get()  # type: ignore[no-any-return]

    def map_async(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        *,
        on_error: str = "raise",
        timeout: float | None = None,
        retries: int = 0,
        error_retries: int = 0,
    ) -> Any:
        """As :meth:`map`, but returns at once an object whose ``get()`` gives the list."""
        self._check_running()
        self._in_background(callback, error_callback)
        policy = _policy(timeout, retries, error_retries)
        return self._submit(func, iterable, False, chunksize, on_error, policy, callback, error_callback)

    def starmap_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        *,
        on_error: str = "raise",
        timeout: float | None = None,
        retries: int = 0,
        error_retries: int = 0,
    ) -> Any:
        """As :meth:`starmap`, but returns at once an object whose ``get()`` gives the list."""
        self._check_running()
        self._in_background(callback, error_callback)
        policy = _policy(timeout, retries, error_retries)
        return self._submit(func, iterable, True, chunksize, on_error, policy, callback, error_callback)

    def imap(  # type: ignore[override]
        self,
        func: Callable[[Any], _T],
        iterable: Iterable[Any],
        chunksize: int = 1,
        *,
        buffersize: int | None = None,
        on_error: str = "raise",
        timeout: float | None = None,
        retries: int = 0,
        error_retries: int = 0,
    ) -> Iterator[_T]:
        """An iterator over ``func(item) for item in iterable``, in order.

        Items are drawn as results are consumed, at first ``2 * processes * chunksize`` ahead, and farther ahead for a
        consumer that has to wait; never more than ``buffersize``, where that is given.
        """
        policy = _policy(timeout, retries, error_retries)
        return self._stream(func, iterable, True, chunksize, buffersize, on_error, policy)

    def imap_unordered(  # type: ignore[override]
        self,
        func: Callable[[Any], _T],
        iterable: Iterable[Any],
        chunksize: int = 1,
        *,
        buffersize: int | None = None,
        on_error: str = "raise",
        timeout: float | None = None,
        retries: int = 0,
        error_retries: int = 0,
    ) -> Iterator[_T]:
        """As :meth:`imap`, but the results come as they are done."""
        policy = _policy(timeout, retries, error_retries)
        return self._stream(func, iterable, False, chunksize, buffersize, on_error, policy)

    def _submit(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        star: bool,
        chunksize: int | None,
        on_error: str,
        policy: tuple[float | None, int, int, int, int | None],
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> Any:
        self._check_running()
        mode = _mode(on_error)
        # A list of its own: the caller may change his while tasks are being sent.
        items = iterable if type(iterable) in _UNCHANGING else list(iterable)
        if chunksize is None:
            chunksize = _AUTOMATIC
            if self._maxtasksperchild is not None:
                # Here a chunk is what counts as a task.
                chunksize, extra = divmod(len(items), len(self._pool) * 4 or 4)
                chunksize += bool(extra)
        elif chunksize < 1:
            # As the standard library has it: no chunks, no results.
            items, chunksize = (), 1
        return self._desk.map(func, items, star, chunksize, mode, callback, error_callback, policy)

    def _stream(
        self,
        func: Callable[[Any], _T],
        iterable: Iterable[Any],
        ordered: bool,
        chunksize: int,
        buffersize: int | None,
        on_error: str,
        policy: tuple[float | None, int, int, int, int | None],
    ) -> Iterator[_T]:
        self._check_running()
        if chunksize < 1:
            raise ValueError(f"Chunksize must be 1+, not {chunksize:n}")
        if buffersize is not None and buffersize < 1:
            raise ValueError(f"buffersize must be 1 or more, not {buffersize}")
        window = 2 * self._processes * chunksize if buffersize is None else buffersize
        self._in_background()
        iterator = iter(iterable)
        fixed = buffersize is not None
        return self._desk.stream(func, iterator, ordered, chunksize, window, fixed, _mode(on_error), policy)

    # ------------------------------------------------------------------------------------------------ the end

    def close(self) -> None:
        """No more tasks are taken. The workers end when those that there are have been done."""
        util.debug("closing pool")
        if self._state == RUN:
            self._state = CLOSE
            if self._desk.jobs():
                self._in_background()
            self._desk.close()

    def terminate(self) -> None:
        """Ends the workers at once. ``get()`` of what was not done raises."""
        util.debug("terminating pool")
        self._state = TERMINATE
        self._terminate()

    def join(self) -> None:
        """Waits for the workers to end, after :meth:`close` or :meth:`terminate`."""
        util.debug("joining pool")
        if self._state == RUN:
            raise ValueError("Pool is still running")
        if self._state not in (CLOSE, TERMINATE):
            raise ValueError("In unknown state")
        if self._state == CLOSE:
            self._desk.finish()
            for worker in list(self._pool):
                worker.join()
        self._desk.stop_threads()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()
        for worker in self._pool:
            worker.join()


def _mode(on_error: str) -> int:
    try:
        return _ON_ERROR[on_error]
    except (KeyError, TypeError):
        raise ValueError(f"on_error must be 'raise', 'return' or 'skip', not {on_error!r}") from None


def _policy(timeout: float | None, retries: int, error_retries: int) -> tuple[float | None, int, int, int, int | None]:
    if timeout is not None and not timeout > 0:
        raise ValueError(f"the timeout of a task must be more than 0 seconds, or None, not {timeout!r}")
    for name, count in (("retries", retries), ("error_retries", error_retries)):
        if count < 0:
            raise ValueError(f"{name} must be 0 or more, not {count!r}")
    return timeout, retries, error_retries, 0, None


def _weakly(method: Callable[[], None]) -> Callable[[], None]:
    reference = weakref.WeakMethod(method)

    def call() -> None:
        target = reference()
        if target is not None:
            target()

    return call


def _has_ended(worker: Any) -> bool:
    if worker.exitcode is not None:
        return True
    poller = select.poll()
    poller.register(worker.sentinel, select.POLLIN)
    return bool(poller.poll(0))


def _call(callback: Callable[[Any], object], value: object) -> None:
    try:
        callback(value)
    except BaseException:
        # The result is delivered all the same; nobody but the program's stderr can be told.
        sys.excepthook(*sys.exc_info())


# ---------------------------------------------------------------------------------------------------- the end of a pool


def _terminate_pool(desk: Any, pool: list[Any], threads: list[threading.Thread], keeping: Any, owner: int) -> None:
    """Ends a pool whatever its workers do. Runs once: by ``terminate()``, when the pool is dropped, or at exit."""
    if os.getpid() != owner:
        return
    util.debug("finalizing pool")
    idle = set(desk.terminate())
    # Whoever is just starting workers finishes with that.
    with keeping:
        workers = list(pool)
    # Those that have nothing to do end by themselves: what they printed is written, what they are to do at exit is done.
    deadline = time.monotonic() + GRACE
    for worker in workers:
        if worker._seat.number in idle:
            worker.join(max(0.0, deadline - time.monotonic()))
    for worker in workers:
        if worker.exitcode is None:
            worker.terminate()
    deadline = time.monotonic() + PATIENCE
    for worker in workers:
        worker.join(max(0.0, deadline - time.monotonic()))
    for worker in workers:
        if worker.exitcode is None:
            util.debug("killing worker %s", worker.pid)
            worker.kill()
            # A stopped process dies of SIGKILL as well.
            worker.join()
    for thread in threads:
        if thread is not threading.current_thread():
            thread.join(PATIENCE)


# ---------------------------------------------------------------------------------------------------- subclasses, threads

#: What the standard pool is made of. A subclass that replaces any of it gets the standard pool.
_MACHINERY = frozenset(
    "_setup_queues _get_sentinels _get_worker_sentinels _join_exited_workers _repopulate_pool _repopulate_pool_static "
    "_maintain_pool _map_async _guarded_task_generation _wait_for_updates _handle_workers _handle_tasks _handle_results "
    "_get_tasks _help_stuff_finish _terminate_pool Process".split()
)


def _give_way(cls: type[Pool]) -> None:
    """Puts the standard library's methods under a subclass that overrides what they are made of."""
    replaced = sorted(_MACHINERY.intersection(vars(cls)))
    if not replaced or _OnStandard is None or issubclass(cls, _OnStandard):
        return
    util.debug("%s overrides %s: it runs on the standard library's pool", cls.__qualname__, ", ".join(replaced))
    cls.__bases__ = tuple(_OnStandard if base is Pool else base for base in cls.__bases__)


_OnStandard: Any = None


class _PoolOnStandard(Pool):
    """The standard library's pool again, under polyproc's class."""

    _cache: Any = None

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: Any = None,
    ) -> None:
        if context is None:
            from .context import _default_context

            context = _default_context.get_context()
        _standard.Pool.__init__(self, processes, initializer, initargs, maxtasksperchild, context)


for _name in vars(Pool):
    if _name in vars(_standard.Pool) and _name not in ("__init__", "__module__", "__doc__", "__dict__", "__weakref__"):
        setattr(_PoolOnStandard, _name, vars(_standard.Pool)[_name])
_OnStandard = _PoolOnStandard


class ThreadPool(_standard.ThreadPool):
    """The standard library's pool of threads, with this package's threads and context."""

    @staticmethod
    def Process(ctx: Any, *args: Any, **kwds: Any) -> Any:
        from .dummy import Process

        return Process(*args, **kwds)

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
    ) -> None:
        from .context import _default_context

        _standard.Pool.__init__(self, processes, initializer, initargs, context=_default_context.get_context())
