"""Start methods: how a program gets processes, queues, locks and pools that fit together. An *own* module.

The contexts subclass the standard library's ``multiprocessing.context.BaseContext``, so that they may be given wherever
a library takes ``mp_context=``; each method leads to polyproc's own classes and never back. The exceptions, and the
marker of who is being started, are the standard library's, so that an ``except`` clause catches either.
"""

from __future__ import annotations

import os

from . import process
from ._borrowed import standard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from multiprocessing import context as _standard

    from . import connection as _connection
    from . import queues as _queues
    from . import synchronize as _synchronize
    from .managers import SyncManager
    from .pool import Pool as _Pool
else:
    _standard = standard("context")

reduction: Any = _standard.reduction  # type: ignore[attr-defined]

ProcessError = _standard.ProcessError
BufferTooShort = _standard.BufferTooShort
TimeoutError = _standard.TimeoutError
AuthenticationError = _standard.AuthenticationError

get_spawning_popen = _standard.get_spawning_popen
set_spawning_popen = _standard.set_spawning_popen
assert_spawning = _standard.assert_spawning

__all__ = ()

#: Names a start method to use instead of this Python's default.
START_METHOD_VARIABLE = "POLYPROC_START_METHOD"


class BaseContext(_standard.BaseContext):
    """What every context offers. A context's objects belong to processes that are started by its method.

    >>> import polyproc as mp
    >>> context = mp.get_context("spawn")
    >>> context.get_start_method()
    'spawn'
    """

    _name: str

    def cpu_count(self) -> int:
        """The number of CPUs of this machine. ``len(os.sched_getaffinity(0))`` tells how many of them may be used."""
        count = os.cpu_count()
        if count is None:
            raise NotImplementedError("this system does not tell the number of its CPUs")
        return count

    def Manager(self) -> SyncManager:
        """Starts a server process and returns its manager, whose ``list()``, ``dict()``... give proxies to its objects."""
        from .managers import SyncManager

        manager = SyncManager(ctx=self.get_context())
        manager.start()
        return manager

    def Pipe(self, duplex: bool = True) -> tuple[_connection.Connection, _connection.Connection]:
        """Two connected connections; with ``duplex=False`` the first only receives and the second only sends."""
        from .connection import Pipe

        return Pipe(duplex)

    def Lock(self) -> _synchronize.Lock:  # type: ignore[override]
        """A lock that any process may release."""
        from .synchronize import Lock

        return Lock(ctx=self.get_context())

    def RLock(self) -> _synchronize.RLock:  # type: ignore[override]
        """A lock that its owner may take again, and only its owner releases."""
        from .synchronize import RLock

        return RLock(ctx=self.get_context())

    def Condition(self, lock: Any = None) -> _synchronize.Condition:  # type: ignore[override]
        """A condition variable over ``lock`` (a new RLock by default)."""
        from .synchronize import Condition

        return Condition(lock, ctx=self.get_context())

    def Semaphore(self, value: int = 1) -> _synchronize.Semaphore:  # type: ignore[override]
        """A semaphore that begins with ``value`` permits."""
        from .synchronize import Semaphore

        return Semaphore(value, ctx=self.get_context())

    def BoundedSemaphore(self, value: int = 1) -> _synchronize.BoundedSemaphore:  # type: ignore[override]
        """A semaphore that never has more than its first ``value`` of permits."""
        from .synchronize import BoundedSemaphore

        return BoundedSemaphore(value, ctx=self.get_context())

    def Event(self) -> _synchronize.Event:  # type: ignore[override]
        """A flag that processes wait for."""
        from .synchronize import Event

        return Event(ctx=self.get_context())

    def Barrier(  # type: ignore[override]
        self, parties: int, action: Callable[[], object] | None = None, timeout: float | None = None
    ) -> _synchronize.Barrier:
        """A point where ``parties`` processes wait for each other; ``timeout`` is in seconds."""
        from .synchronize import Barrier

        return Barrier(parties, action, timeout, ctx=self.get_context())

    def Queue(self, maxsize: int = 0) -> _queues.Queue[Any]:  # type: ignore[override]
        """A queue between processes; ``maxsize`` 0 means no bound."""
        from .queues import Queue

        return Queue(maxsize, ctx=self.get_context())

    def JoinableQueue(self, maxsize: int = 0) -> _queues.JoinableQueue[Any]:  # type: ignore[override]
        """A queue that can also be waited for until everything got from it is done."""
        from .queues import JoinableQueue

        return JoinableQueue(maxsize, ctx=self.get_context())

    def SimpleQueue(self) -> _queues.SimpleQueue[Any]:  # type: ignore[override]
        """A queue with ``put``, ``get`` and ``empty`` alone."""
        from .queues import SimpleQueue

        return SimpleQueue(ctx=self.get_context())

    def Pool(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        **options: Any,
    ) -> _Pool:
        """A pool of ``processes`` workers (as many as there are CPUs by default); see :class:`polyproc.pool.Pool`."""
        from .pool import Pool

        return Pool(processes, initializer, initargs, maxtasksperchild, context=self.get_context(), **options)

    def RawValue(self, typecode_or_type: Any, *args: Any) -> Any:
        """A ctypes object in shared memory, without a lock."""
        from .sharedctypes import RawValue

        return RawValue(typecode_or_type, *args)

    def RawArray(self, typecode_or_type: Any, size_or_initializer: int | Sequence[Any]) -> Any:
        """A ctypes array in shared memory, without a lock."""
        from .sharedctypes import RawArray

        return RawArray(typecode_or_type, size_or_initializer)

    def Value(self, typecode_or_type: Any, *args: Any, lock: Any = True) -> Any:
        """A ctypes object in shared memory with a lock (``lock=False`` for none, or a lock of yours)."""
        from .sharedctypes import Value

        return Value(typecode_or_type, *args, lock=lock, ctx=self.get_context())

    def Array(self, typecode_or_type: Any, size_or_initializer: int | Sequence[Any], *, lock: Any = True) -> Any:
        """A ctypes array in shared memory with a lock (``lock=False`` for none, or a lock of yours)."""
        from .sharedctypes import Array

        return Array(typecode_or_type, size_or_initializer, lock=lock, ctx=self.get_context())

    def freeze_support(self) -> None:
        """Does nothing: only frozen Windows programs need it, and they may call it everywhere."""

    def get_logger(self) -> Any:
        """The logger of this package, made at the first call."""
        from .util import get_logger

        return get_logger()

    def log_to_stderr(self, level: Any = None) -> Any:
        """Makes the logger of this package write to stderr, here and in children, from ``level`` on."""
        from .util import log_to_stderr

        return log_to_stderr(level)

    def allow_connection_pickling(self) -> None:
        """Connections and sockets can be sent to other processes; this makes sure that the module is loaded."""
        from . import connection  # noqa: F401

    def set_executable(self, executable: Any) -> None:
        """Sets the Python (a path) that spawn and forkserver start, instead of ``sys.executable``."""
        from .spawn import set_executable

        set_executable(executable)

    def set_forkserver_preload(self, module_names: list[str]) -> None:
        """Names the modules that the fork server imports once, so that its children need not."""
        from .forkserver import set_forkserver_preload

        set_forkserver_preload(module_names)

    def get_context(self, method: str | None = None) -> BaseContext:  # type: ignore[override]
        """The context of a start method, or this one. ValueError if this system has no such method."""
        if method is None:
            return self
        try:
            context = _concrete_contexts[method]
        except KeyError:
            raise ValueError(_no_such_method(method)) from None
        context._check_available()
        return context

    @property
    def reducer(self) -> Any:
        """What reduces objects to bytes: the module :mod:`polyproc.reduction`, or what was set here."""
        return reduction

    @reducer.setter
    def reducer(self, value: Any) -> None:
        globals()["reduction"] = value

    def _check_available(self) -> None:
        pass


class _Startable(process.BaseProcess):
    """What polyproc's process classes have in common."""

    _start_method: str | None

    def _bootstrap(self, parent_sentinel: int | None = None) -> int:
        # The standard method does this for the standard contexts; coverage tools replace it, so it is called, not copied.
        if self._start_method is not None:
            _force_start_method(self._start_method)
        code: int = super()._bootstrap(parent_sentinel)  # type: ignore[misc]
        return code


class Process(_Startable):
    """A process that runs ``target(*args, **kwargs)``, or ``run()`` of a subclass, started by the default method.

    >>> import polyproc as mp
    >>> process = mp.Process(target=print, args=("hello",))
    >>> process.start()
    >>> process.join()
    >>> process.exitcode
    0
    """

    _start_method = None

    @staticmethod
    def _Popen(process_obj: process.BaseProcess) -> Any:
        return _default_context.get_context().Process._Popen(process_obj)  # type: ignore[attr-defined]

    @staticmethod
    def _after_fork() -> Any:
        return _default_context.get_context().Process._after_fork()  # type: ignore[attr-defined]


class ForkProcess(_Startable):
    """A process that begins as a copy of this one."""

    _start_method = "fork"

    @staticmethod
    def _Popen(process_obj: process.BaseProcess) -> Any:
        from .popen_fork import Popen

        return Popen(process_obj)


class SpawnProcess(_Startable):
    """A process that begins as a fresh interpreter."""

    _start_method = "spawn"

    @staticmethod
    def _Popen(process_obj: process.BaseProcess) -> Any:
        from .popen_spawn_posix import Popen

        return Popen(process_obj)

    @staticmethod
    def _after_fork() -> None:
        pass  # it was not forked


class ForkServerProcess(_Startable):
    """A process that begins as a copy of a server process, which has no threads and little state."""

    _start_method = "forkserver"

    @staticmethod
    def _Popen(process_obj: process.BaseProcess) -> Any:
        from .popen_forkserver import Popen

        return Popen(process_obj)


class ForkContext(BaseContext):
    """Processes begin as copies of their parent."""

    _name = "fork"
    Process = ForkProcess


class SpawnContext(BaseContext):
    """Processes begin as fresh interpreters."""

    _name = "spawn"
    Process = SpawnProcess


class ForkServerContext(BaseContext):
    """Processes begin as copies of a server."""

    _name = "forkserver"
    Process = ForkServerProcess


class DefaultContext(_standard.DefaultContext, BaseContext):
    """The context behind the package's own functions; its start method can be set once.

    Until it is set it is that of ``POLYPROC_START_METHOD``, or else this Python's own default.
    """

    Process = Process  # type: ignore[assignment]

    def __init__(self) -> None:
        self._actual_context: BaseContext | None = None

    @property
    def _default_context(self) -> BaseContext:
        return _concrete_contexts[_default_method()]

    def get_all_start_methods(self) -> list[str]:
        """The start methods of this system, the default first."""
        default = _default_method()
        return [default, *(method for method in _concrete_contexts if method != default)]


_concrete_contexts: dict[str, BaseContext] = {
    "fork": ForkContext(),
    "spawn": SpawnContext(),
    "forkserver": ForkServerContext(),
}


def _default_method() -> str:
    named = os.environ.get(START_METHOD_VARIABLE)
    if not named:
        default: str = _standard._default_context._default_context._name  # type: ignore[attr-defined]
        return default
    if named not in _concrete_contexts:
        raise ValueError(f"{START_METHOD_VARIABLE}={named}: {_no_such_method(named)}")
    return named


def _no_such_method(method: object) -> str:
    first, *others = map(repr, _concrete_contexts)
    return f"cannot find context for {method!r}: the start methods here are {', '.join(others)} and {first}"


def _force_start_method(method: str) -> None:
    _default_context._actual_context = _concrete_contexts[method]


_default_context = DefaultContext()

