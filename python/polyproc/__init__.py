"""Processes, pools, queues and locks: the standard library's ``multiprocessing``, rebuilt on a Rust engine.

``import polyproc as mp`` gives every name of ``multiprocessing``. ``polyproc.install()`` makes polyproc stand as
``multiprocessing`` for the whole program, and ``python -m polyproc script.py`` does that to a program from outside.

>>> import polyproc as mp
>>> queue = mp.Queue()
>>> process = mp.Process(target=queue.put, args=(42,))
>>> process.start()
>>> queue.get()
42
>>> process.join()
"""

from __future__ import annotations

import sys as _sys
from importlib import import_module as _import_module

from .context import (
    AuthenticationError,
    BufferTooShort,
    Process,
    ProcessError,
    TimeoutError,
    _default_context,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._arrays import asarray as asarray
    from ._arrays import empty as empty
    from ._arrays import zeros as zeros
    from ._install import install as install
    from .errors import HolderDiedWarning as HolderDiedWarning
    from .errors import PoolTerminatedError as PoolTerminatedError
    from .errors import TaskCancelledError as TaskCancelledError
    from .errors import TaskExitError as TaskExitError
    from .errors import TaskMemoryError as TaskMemoryError
    from .errors import TaskTimeoutError as TaskTimeoutError
    from .errors import WorkerDiedError as WorkerDiedError

__all__ = [
    "Array",
    "AuthenticationError",
    "Barrier",
    "BoundedSemaphore",
    "BufferTooShort",
    "Condition",
    "Event",
    "JoinableQueue",
    "Lock",
    "Manager",
    "Pipe",
    "Pool",
    "Process",
    "ProcessError",
    "Queue",
    "RLock",
    "RawArray",
    "RawValue",
    "Semaphore",
    "SimpleQueue",
    "TimeoutError",
    "Value",
    "active_children",
    "allow_connection_pickling",
    "cpu_count",
    "current_process",
    "freeze_support",
    "get_all_start_methods",
    "get_context",
    "get_logger",
    "get_start_method",
    "log_to_stderr",
    "parent_process",
    "reducer",
    "set_executable",
    "set_forkserver_preload",
    "set_start_method",
]

Array = _default_context.Array
Barrier = _default_context.Barrier
BoundedSemaphore = _default_context.BoundedSemaphore
Condition = _default_context.Condition
Event = _default_context.Event
JoinableQueue = _default_context.JoinableQueue
Lock = _default_context.Lock
Manager = _default_context.Manager
Pipe = _default_context.Pipe
Pool = _default_context.Pool
Queue = _default_context.Queue
RLock = _default_context.RLock
RawArray = _default_context.RawArray
RawValue = _default_context.RawValue
Semaphore = _default_context.Semaphore
SimpleQueue = _default_context.SimpleQueue
Value = _default_context.Value
active_children = _default_context.active_children
allow_connection_pickling = _default_context.allow_connection_pickling
cpu_count = _default_context.cpu_count
current_process = _default_context.current_process
freeze_support = _default_context.freeze_support
get_all_start_methods = _default_context.get_all_start_methods
get_context = _default_context.get_context
get_logger = _default_context.get_logger
get_start_method = _default_context.get_start_method
log_to_stderr = _default_context.log_to_stderr
parent_process = _default_context.parent_process
reducer = _default_context.reducer
set_executable = _default_context.set_executable
set_forkserver_preload = _default_context.set_forkserver_preload
set_start_method = _default_context.set_start_method

SUBDEBUG = 5
SUBWARNING = 25

# Another name of the main module, by which children that import it find it.
if "__main__" in _sys.modules:
    _sys.modules["__mp_main__"] = _sys.modules["__main__"]

#: What this package has beyond the standard names, and where: loaded when asked for.
_EXTRAS = {
    "install": "_install",
    "asarray": "_arrays",
    "empty": "_arrays",
    "zeros": "_arrays",
    "HolderDiedWarning": "errors",
    "PoolBrokenError": "errors",
    "PoolTerminatedError": "errors",
    "TaskCancelledError": "errors",
    "TaskExitError": "errors",
    "TaskMemoryError": "errors",
    "TaskTimeoutError": "errors",
    "WorkerDiedError": "errors",
}


def __getattr__(name: str) -> Any:
    if name in _EXTRAS:
        return getattr(_import_module(f"{__name__}.{_EXTRAS[name]}"), name)
    if name == "__version__":
        return _import_module(f"{__name__}._polyproc").__version__
    from ._install import SUBMODULES

    if name in SUBMODULES:
        return _import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
