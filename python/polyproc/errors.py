"""What polyproc reports that the standard library has no name for. An *own* module.

>>> import polyproc as mp
>>> issubclass(mp.WorkerDiedError, RuntimeError)
True
"""

from __future__ import annotations

import builtins
from typing import Any

from .context import ProcessError, TimeoutError

__all__ = ["HolderDiedWarning", "PoolBrokenError", "PoolTerminatedError", "TaskCancelledError", "TaskExitError", "TaskMemoryError", "TaskTimeoutError", "WorkerDiedError"]


class HolderDiedWarning(RuntimeWarning):
    """A process died while it held a lock, and the lock is now yours.

    What the lock guards may be half done. The message names the pid of the dead. To get an exception instead, in which case
    ``acquire()`` gives the lock back before it raises:

    >>> import warnings
    >>> warnings.simplefilter("error", HolderDiedWarning)
    """


class WorkerDiedError(ProcessError, RuntimeError):
    """A worker process of a pool died in a task. The pool goes on; this task was not done, or not to its end.

    ``pid``, ``exitcode`` (negative for a signal, None if nobody knows), and ``index``, the place of the task in its
    ``map`` or ``imap``.
    """

    def __init__(
        self, message: str, pid: int | None = None, exitcode: int | None = None, index: int | None = None
    ) -> None:
        super().__init__(message)
        self.pid = pid
        self.exitcode = exitcode
        self.index = index

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.args[0], self.pid, self.exitcode, self.index)


class TaskExitError(ProcessError, RuntimeError):
    """A task called ``sys.exit()``, or was interrupted (KeyboardInterrupt), in a worker process, which goes on."""


class TaskMemoryError(ProcessError, MemoryError):
    """A task of a pool took more memory than its ``memory_limit``. Its worker was ended and replaced."""


class TaskTimeoutError(TimeoutError, builtins.TimeoutError):
    """A task of a pool ran longer than the ``timeout`` that it was given. Its worker was ended and replaced."""


class TaskCancelledError(ProcessError, RuntimeError):
    """A task of a pool was given up by ``cancel()``."""


class PoolTerminatedError(ProcessError, RuntimeError):
    """The pool was terminated before this task was done."""


def __getattr__(name: str) -> Any:
    # concurrent.futures.process imports multiprocessing, which must not happen while polyproc is itself being imported.
    if name == "PoolBrokenError":
        return _make_broken()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)


def _make_broken() -> type[Exception]:
    from concurrent.futures.process import BrokenProcessPool

    class PoolBrokenError(ProcessError, BrokenProcessPool):
        """The pool cannot go on: its workers end before they are ready."""

    PoolBrokenError.__module__ = __name__
    PoolBrokenError.__qualname__ = "PoolBrokenError"
    globals()["PoolBrokenError"] = PoolBrokenError
    return PoolBrokenError
