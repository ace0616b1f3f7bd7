"""A child that begins as a fresh interpreter. An *own* module.

What the child must know lies in a file without a name (a memfd), which it reads when it is ready. So ``start()`` never
waits for the child, however much there is to read, and a child that dies while it boots leaves nobody waiting.
"""

from __future__ import annotations

import contextlib
import copyreg
import io
import os
import sys
from collections import ChainMap

from . import popen_fork, spawn, util
from ._polyproc import Estate
from .context import reduction, set_spawning_popen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

__all__ = ["Popen"]


class _DupFd:
    """A descriptor that the child has under the same number."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def detach(self) -> int:
        return self.fd


class Popen(popen_fork.Popen):
    """A child started by executing Python anew."""

    method = "spawn"
    DupFd: Any = _DupFd

    def __init__(self, process_obj: Any) -> None:
        self._fds: list[int] = []
        super().__init__(process_obj)

    def duplicate_for_child(self, fd: int) -> int:
        self._fds.append(fd)
        return fd

    def _launch(self, process_obj: Any) -> None:
        with self._estate():
            self._execute(self._pack(process_obj))
        self._adopt()

    @contextlib.contextmanager
    def _estate(self) -> Iterator[None]:
        """What the child is handed of the session, while it is packed and started."""
        self.estate = Estate()
        self.participant = self.estate.participant
        try:
            yield
        finally:
            self.estate.close()

    def _execute(self, handed_down: int) -> None:
        try:
            tracker = tracker_descriptor()
            if tracker is not None:
                self._fds.append(tracker)
            self._fds.append(handed_down)
            command = spawn.get_command_line(tracker_fd=tracker, pipe_handle=handed_down)
            with popen_fork._Room():
                self.pid = util.spawnv_passfds(runnable(spawn.get_executable()), command, sorted(set(self._fds)))  # type: ignore[attr-defined]
        finally:
            os.close(handed_down)

    def _pack(self, process_obj: Any) -> int:
        """A descriptor from which the child reads its preparation data and its process object."""
        packed = io.BytesIO()
        set_spawning_popen(self)  # type: ignore[arg-type]
        try:
            reduction.dump(spawn.get_preparation_data(process_obj._name), packed)
            dump_process(process_obj, packed)
        finally:
            set_spawning_popen(None)
        descriptor = os.memfd_create("polyproc-child", os.MFD_CLOEXEC)
        try:
            view = packed.getbuffer()
            while view:
                view = view[os.write(descriptor, view) :]
            os.lseek(descriptor, 0, os.SEEK_SET)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor


def runnable(executable: str | bytes | None) -> str | bytes:
    """The Python to start children with, if it is one that can be started."""
    if executable is None:
        raise ValueError(
            "there is no Python to start a process with: sys.executable is not set; call set_executable(path) first"
        )
    if not os.access(executable, os.X_OK):
        raise FileNotFoundError(
            f"the Python to start a process with cannot be executed: {os.fsdecode(executable)!r}; "
            "call set_executable(path) with one that can"
        )
    return executable


def tracker_descriptor() -> int | None:
    """The resource tracker's descriptor for a child, in programs that use named shared memory."""
    from . import resource_tracker

    tracker = resource_tracker._resource_tracker  # type: ignore[attr-defined]
    used = tracker._fd is not None or any(
        f"{package}.shared_memory" in sys.modules for package in ("polyproc", "multiprocessing", "polyproc._stdlib")
    )
    descriptor: int | None = tracker.getfd() if used else None
    return descriptor


def dump_process(process_obj: Any, file: Any) -> None:
    """Pickles a process object, by cloudpickle what plain pickle refuses (where that is installed).

    If it cannot be done, the error names the part of it that cannot be pickled.
    """
    from . import _main_module

    begin = file.tell()
    try:
        reduction.dump(process_obj, file)
        if _main_module.can_be_imported():
            return
        _main_module.by_value = True
        file.seek(begin)
        if b"__main__" not in file.read():
            return
        file.seek(begin)
        file.truncate()
        if not _dumped_by_value(process_obj, file):
            pickler = _main_module.Refusing(file)
            known: Any = copyreg.dispatch_table
            pickler.dispatch_table = ChainMap(reduction.ForkingPickler._extra_reducers, known)
            pickler.dump(process_obj)
    except Exception as error:
        file.seek(begin)
        file.truncate()
        if _dumped_by_value(process_obj, file):
            return
        part = _unpicklable_part(process_obj)
        if part is None:
            raise
        message = (
            f"{error}\n{part} of process {process_obj.name!r} cannot be pickled, which start method "
            f"{_method_of(process_obj)!r} needs: give something that can be imported or pickled, or use 'fork'"
        )
        if type(error) in (TypeError, ValueError, AttributeError, reduction.pickle.PicklingError):
            raise type(error)(message) from error
        error.add_note(message.partition("\n")[2])
        raise


def _dumped_by_value(process_obj: Any, file: Any) -> bool:
    """Pickles lambdas, closures and what is defined in the main module by value, which only cloudpickle can."""
    begin = file.tell()
    try:
        import cloudpickle
    except ImportError:
        return False
    try:
        pickler = cloudpickle.Pickler(file)
        pickler.dispatch_table = ChainMap(reduction.ForkingPickler._extra_reducers, pickler.dispatch_table)
        pickler.dump(process_obj)
    except Exception:
        file.seek(begin)
        file.truncate()
        return False
    return True


def _method_of(process_obj: Any) -> str:
    from .context import get_spawning_popen

    return getattr(get_spawning_popen(), "method", "spawn")


def _unpicklable_part(process_obj: Any) -> str | None:
    parts: list[tuple[str, Any]] = [("the target", getattr(process_obj, "_target", None))]
    parts += [(f"argument {place} (args[{place}])", one) for place, one in enumerate(getattr(process_obj, "_args", ()))]
    parts += [(f"keyword argument {name!r}", one) for name, one in getattr(process_obj, "_kwargs", {}).items()]
    known = {"_target", "_args", "_kwargs"}
    parts += [(f"attribute {name!r}", one) for name, one in vars(process_obj).items() if name not in known]
    for what, one in parts:
        try:
            reduction.dump(one, io.BytesIO())
        except Exception:
            return f"{what}, of type {type(one).__qualname__!r},"
    return None
