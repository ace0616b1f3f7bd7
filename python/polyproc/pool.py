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
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from . import _polyproc, _pool_on_standard, util
from . import _pool_errors as _pool_errors  # loaded before the first fork: a fork in the middle of an import hangs
from ._borrowed import standard
from ._pool_care import call, has_ended, settle, terminate_pool, weakly
from ._pool_lazy import map_lazily
from ._pool_terms import MapTerms, TaskTerms, bytes_or_none, mode, policy
from ._pool_worker import Place, work

if TYPE_CHECKING:
    from multiprocessing import pool as _standard

    from ._shared_object import SharedObject
else:
    _standard = standard("pool")

__all__ = ["Pool", "ThreadPool"]

_T = TypeVar("_T")
_Shared = TypeVar("_Shared")

INIT, RUN, CLOSE, TERMINATE = "INIT", "RUN", "CLOSE", "TERMINATE"

MaybeEncodingError = _standard.MaybeEncodingError  # type: ignore[attr-defined]
RemoteTraceback = _standard.RemoteTraceback  # type: ignore[attr-defined]
ExceptionWithTraceback = _standard.ExceptionWithTraceback  # type: ignore[attr-defined]
mapstar = _standard.mapstar  # type: ignore[attr-defined]
starmapstar = _standard.starmapstar  # type: ignore[attr-defined]
rebuild_exc = _standard.rebuild_exc  # type: ignore[attr-defined]

#: Workers that may end one after another before they are ready, beside one for each of the pool's processes.
TOLERANCE = 2

#: A chunk size that the extension module chooses, by how long tasks take.
_AUTOMATIC = 0

#: What nobody can change while its items are being sent.
_UNCHANGING = (tuple, range)


class ApplyResult(_standard.ApplyResult):  # type: ignore[type-arg]
    """The class of what ``apply_async`` returns, for ``isinstance``; the objects are the extension module's."""


class MapResult(_standard.MapResult, ApplyResult):  # type: ignore[type-arg]
    """The class of what ``map_async`` returns, for ``isinstance``."""


AsyncResult = ApplyResult
worker = work
_OnStandard: Any = None
IMapIterator = _polyproc.IMapIterator
IMapUnorderedIterator = _polyproc.IMapIterator


class Pool(_standard.Pool):
    """A pool of ``processes`` workers (as many as there are CPUs by default).

    ``initializer(*initargs)`` runs in each worker first. ``context`` is what the workers are started with.

    A worker is replaced by a fresh one after ``maxtasksperchild`` tasks, and after a task at whose end it has more than
    ``max_memory_per_child`` *bytes* of memory for itself (resident memory without what it shares: files, the session's
    blocks; under ``fork`` what the parent had counts as well). That is no failure of the task.

    With ``idle_timeout``, workers that have had nothing to do for so many seconds end, as long as more than
    ``min_processes`` (1) are left; they are started again as tasks come. :meth:`resize` changes ``processes``.

    What may be asked for a task, or for each of a map: ``timeout``, ``memory_limit``, ``priority``, ``retries``,
    ``error_retries``, and ``on_error`` for a map. See :class:`polyproc._pool_terms.TaskTerms`.

    Use it in a ``with`` block, which terminates it at its end, or call :meth:`close` and :meth:`join`.

    >>> import polyproc as mp
    >>> with mp.Pool(2) as pool:
    ...     pool.map(abs, [-1, 2, -3])
    [1, 2, 3]
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if _OnStandard is not None:
            _pool_on_standard.give_way(cls, Pool, _OnStandard)

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: Any = None,
        *,
        max_memory_per_child: int | None = None,
        idle_timeout: float | None = None,
        min_processes: int | None = None,
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
        _check_processes(processes)
        if maxtasksperchild is not None and (not isinstance(maxtasksperchild, int) or maxtasksperchild <= 0):
            raise ValueError("maxtasksperchild must be a positive int or None")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if idle_timeout is not None and not idle_timeout > 0:
            raise ValueError(f"idle_timeout must be more than 0 seconds, or None, not {idle_timeout!r}")
        if min_processes is not None and (idle_timeout is None or not 0 <= min_processes <= processes):
            raise ValueError("min_processes must be at least 0 and at most processes, and goes with idle_timeout")
        self._processes = processes
        self._initializer = initializer
        self._initargs = tuple(initargs)
        self._maxtasksperchild = maxtasksperchild
        self._max_memory = bytes_or_none("max_memory_per_child", max_memory_per_child)
        self._least = processes
        self._desk = _polyproc.Desk(processes, min(processes, 8) + TOLERANCE)
        self._threads: list[threading.Thread] = []
        self._is_pumped = False
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
        self._desk.set_keeper(weakly(self._keep))
        self._terminate = util.Finalize(
            self,
            terminate_pool,
            args=(self._desk, self._pool, self._threads, self._keeping, self._owner),
            exitpriority=15,
        )
        self._state = RUN
        if idle_timeout is not None:
            self._least = 1 if min_processes is None else min_processes
            self._desk.set_idle(idle_timeout, self._least)
            self._in_background()

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
        retiring = set(self._desk.retiring())
        active = sum(worker._seat.number not in retiring for worker in self._pool)
        wanted = self._processes
        if self._state == RUN and self._least < wanted:
            wanted = max(self._least, min(wanted, active + self._desk.waiting(wanted)))
        for _ in range(wanted - active):
            seat = self._desk.open_seat(self._maxtasksperchild, self._max_memory)
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
            for worker in [worker for worker in self._pool if has_ended(worker)]:
                worker.join()
                if worker.exitcode is not None:
                    self._desk.note_exit(worker.pid, worker.exitcode)
                self._pool.remove(worker)
            if self._state == RUN or (self._state == CLOSE and self._desk.jobs()):
                self._repopulate_pool()

    def resize(self, processes: int) -> None:
        """Changes how many workers there are. New ones are started now; those that are too many end, when they have done
        the task that they are in. What they had not begun is done by others.

        >>> import polyproc as mp
        >>> with mp.Pool(1) as pool:
        ...     pool.resize(3)
        ...     len(pool._pool)
        3
        """
        self._check_running()
        _check_processes(processes)
        self._in_background()
        with self._keeping:
            if self._least == self._processes:
                self._least = processes
            self._processes = processes
            self._desk.resize(processes)
            self._keep()
        self._desk.attend()

    def _start_thread(self, name: str, target: Callable[..., object], *args: Any) -> None:
        if any(thread.name == name for thread in self._threads):
            return
        thread = threading.Thread(target=target, args=args, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _in_background(self, *callbacks: object) -> None:
        """Nobody may wait for what is submitted now: the pool's own threads have to."""
        self._start_thread("polyproc-pool", self._desk.run_pump)
        self._is_pumped = True
        if any(callback is not None for callback in callbacks):
            self._start_thread("polyproc-callbacks", self._desk.run_calls, call)

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
        **terms: Unpack[TaskTerms],
    ) -> Any:
        """Has ``func(*args, **kwds)`` done in a worker, and returns at once an object whose ``get()`` gives the result.

        The callbacks are called with the result, or the exception, in a thread of this process. The object's ``cancel()``
        gives the task up: one that runs is ended, with its worker.

        ``terms``: ``timeout``, ``memory_limit``, ``priority``, ``retries``, ``error_retries``; see the class.

        >>> import polyproc as mp
        >>> with mp.Pool(2) as pool:
        ...     pool.apply_async(pow, (2, 10), timeout=60).get()
        1024
        """
        if self._state != RUN:
            self._check_running()
        if not self._is_pumped or callback is not None or error_callback is not None:
            self._in_background(callback, error_callback)
        if not terms:
            return self._desk.apply(func, args, kwds, callback, error_callback)
        if "on_error" in terms:
            raise TypeError("on_error is for maps: the error of a single task is raised by get()")
        return self._desk.apply(func, args, kwds, callback, error_callback, policy(terms))

    def map(
        self,
        func: Callable[[Any], _T],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        *,
        buffersize: int | None = None,
        **terms: Unpack[MapTerms],
    ) -> list[_T]:
        """``[func(item) for item in iterable]``, the items spread over the workers.

        If some fail, the others are done all the same; then the first error is raised, or, with ``on_error="return"``,
        stands in the list in place of the result, or, with ``"skip"``, is left out.

        An iterable of unknown length, such as a generator, is drawn as the tasks are done: what is drawn and not done is at
        first ``2 * processes`` items (of ``chunksize``, if given), and more only where tasks are tiny; never more than
        ``buffersize``, where that is given.

        ``terms``: ``on_error``, and for each item ``timeout``, ``memory_limit``, ``priority``, ``retries``,
        ``error_retries``; see the class.
        """
        return self._map(func, iterable, False, chunksize, buffersize, terms)

    def starmap(
        self,
        func: Callable[..., _T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        *,
        buffersize: int | None = None,
        **terms: Unpack[MapTerms],
    ) -> list[_T]:
        """``[func(*item) for item in iterable]``, otherwise as :meth:`map`."""
        return self._map(func, iterable, True, chunksize, buffersize, terms)

    def map_async(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        **terms: Unpack[MapTerms],
    ) -> Any:
        """As :meth:`map`, but draws all items and returns at once an object whose ``get()`` gives the list."""
        self._check_running()
        self._in_background(callback, error_callback)
        return self._submit(func, iterable, False, chunksize, terms, callback, error_callback)

    def starmap_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        **terms: Unpack[MapTerms],
    ) -> Any:
        """As :meth:`starmap`, but draws all items and returns at once an object whose ``get()`` gives the list."""
        self._check_running()
        self._in_background(callback, error_callback)
        return self._submit(func, iterable, True, chunksize, terms, callback, error_callback)

    def imap(  # type: ignore[override]
        self,
        func: Callable[[Any], _T],
        iterable: Iterable[Any],
        chunksize: int = 1,
        *,
        buffersize: int | None = None,
        **terms: Unpack[MapTerms],
    ) -> Iterator[_T]:
        """An iterator over ``func(item) for item in iterable``, in order.

        Items are drawn as results are consumed, at first ``2 * processes * chunksize`` ahead, and farther ahead for a
        consumer that has to wait for tiny tasks; never more than ``buffersize``, where that is given.
        """
        return self._stream(func, iterable, True, chunksize, buffersize, terms)

    def imap_unordered(  # type: ignore[override]
        self,
        func: Callable[[Any], _T],
        iterable: Iterable[Any],
        chunksize: int = 1,
        *,
        buffersize: int | None = None,
        **terms: Unpack[MapTerms],
    ) -> Iterator[_T]:
        """As :meth:`imap`, but the results come as they are done."""
        return self._stream(func, iterable, False, chunksize, buffersize, terms)

    def _map(
        self,
        func: Callable[..., _T],
        iterable: Iterable[Any],
        star: bool,
        chunksize: int | None,
        buffersize: int | None,
        terms: MapTerms,
    ) -> list[_T]:
        if (hasattr(iterable, "__len__") and buffersize is None) or (chunksize is not None and chunksize < 1):
            return self._submit(func, iterable, star, chunksize, terms).get()  # type: ignore[no-any-return]
        self._check_running()
        _check_buffersize(buffersize)
        how, asked = mode(terms), policy(terms)
        chunk = chunksize or (_AUTOMATIC if self._maxtasksperchild is None else 1)

        def submit(items: list[Any], chunk: int, base: int) -> Any:
            return self._desk.map(func, items, star, chunk, how, None, None, asked, base)

        return map_lazily(self._desk, submit, iterable, 2 * self._processes * max(chunk, 1), chunk, buffersize)

    def _submit(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        star: bool,
        chunksize: int | None,
        terms: MapTerms,
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> Any:
        self._check_running()
        how, asked = mode(terms), policy(terms)
        # A list of its own: the caller may change his while tasks are being sent.
        items: Any = iterable if type(iterable) in _UNCHANGING else list(iterable)
        if chunksize is None:
            chunksize = _AUTOMATIC
            if self._maxtasksperchild is not None:
                # Here a chunk is what counts as a task.
                chunksize, extra = divmod(len(items), len(self._pool) * 4 or 4)
                chunksize += bool(extra)
        elif chunksize < 1:
            # As the standard library has it: no chunks, no results.
            items, chunksize = (), 1
        return self._desk.map(func, items, star, chunksize, how, callback, error_callback, asked)

    def _stream(
        self,
        func: Callable[[Any], _T],
        iterable: Iterable[Any],
        ordered: bool,
        chunksize: int,
        buffersize: int | None,
        terms: MapTerms,
    ) -> Iterator[_T]:
        self._check_running()
        if chunksize < 1:
            raise ValueError(f"Chunksize must be 1+, not {chunksize:n}")
        _check_buffersize(buffersize)
        how, asked = mode(terms), policy(terms)
        window = 2 * self._processes * chunksize if buffersize is None else buffersize
        self._in_background()
        iterator = iter(iterable)
        fixed = buffersize is not None
        return self._desk.stream(func, iterator, ordered, chunksize, window, fixed, how, asked)

    def share(self, obj: _Shared) -> SharedObject[_Shared]:
        """Stores `obj` once, for many tasks: what is returned travels as a name, and its ``value`` is the object.

        It is pickled now, with large buffers beside it, into session memory, and unpickled once in each process that asks
        for the ``value``: there arrays are read-only views of the one copy. It goes to tasks of any pool, through queues
        and pipes, and into the arguments of processes. The memory is given back when the last process has dropped it; a
        worker of a pool does so at the end of the first task after you have dropped yours.

        Raises what pickling raises, and ``OSError`` (``ENOSPC``) beyond the session's budget.

        >>> import operator
        >>> import polyproc as mp
        >>> with mp.Pool(2) as pool:
        ...     table = pool.share({"a": 1, "b": 2})
        ...     pool.map(operator.attrgetter("value"), [table])
        [{'a': 1, 'b': 2}]
        """
        from ._shared_object import share

        return share(obj)

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
        settle(list(self._pool))


def _check_processes(processes: int) -> None:
    if processes < 1:
        raise ValueError("Number of processes must be at least 1")


def _check_buffersize(buffersize: int | None) -> None:
    if buffersize is not None and buffersize < 1:
        raise ValueError(f"buffersize must be 1 or more, not {buffersize}")


# ---------------------------------------------------------------------------------------------------- subclasses, threads

_OnStandard = _pool_on_standard.under(Pool)


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
