"""A child that begins as a copy of this process, and what all children have in common. An *own* module.

The sentinel of a child is a pidfd: readable once the process is gone, whoever holds copies of anything. Its exit status
is collected where the standard library collects it (``join``, ``is_alive``, ``exitcode``) and nowhere else; if somebody
else has collected it first, the status that the supervisor saw before is told, or else ``255``.
"""

from __future__ import annotations

import atexit
import os
import select
import signal
import sys
import time

from . import util
from ._polyproc import Child, arm_lifeline, fork, leave, own_pidfd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

__all__ = ["Popen"]

#: What ``exitcode`` tells of a process of which nobody knows how it ended.
UNKNOWN = 255

#: From 3.13 on, functions registered with atexit run at the end of every kind of child.
ATEXIT_RUNS = sys.version_info >= (3, 13)

#: The longest single wait, in seconds: poll(2) counts milliseconds in an int.
LONGEST = 1_000_000.0


class Popen:
    """A started child: ``pid``, ``sentinel``, and the ways to wait for it and to end it."""

    method = "fork"

    pid: int
    sentinel: int
    #: The child's name in the session, where it was reserved before the start.
    participant: int = 0

    def __init__(self, process_obj: Any) -> None:
        util._flush_std_streams()  # type: ignore[attr-defined]
        self.returncode: int | None = None
        self.finalizer: Any = None
        self._name: str = process_obj.name
        self._parent = os.getpid()
        self._launch(process_obj)

    def duplicate_for_child(self, fd: int) -> int:
        return fd  # a fork has every descriptor

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        """The exit code, or None while the process runs. ``flag`` 0 waits for it."""
        if self.returncode is None and self._parent == os.getpid():
            if not flag:
                self._wait_for_end(None)
            self.returncode = self._collect()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int | None:
        """The exit code, waiting for at most ``timeout`` seconds; None if the process still runs then."""
        if self.returncode is None and not self._wait_for_end(timeout):
            return None
        return self.poll()

    def interrupt(self) -> None:
        """Sends SIGINT, for ``Process.interrupt()`` of Python 3.14."""
        self._send_signal(signal.SIGINT)

    def terminate(self) -> None:
        self._send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self._send_signal(signal.SIGKILL)

    def close(self) -> None:
        """Gives back the descriptors of a process that has ended."""
        if self.finalizer is not None:
            self.finalizer()

    def _send_signal(self, number: int) -> None:
        if self.returncode is None:
            try:
                self._child.send_signal(number)
            except ProcessLookupError:
                pass
            except OSError:
                if self.wait(timeout=0.1) is None:
                    raise

    def _launch(self, process_obj: Any) -> None:
        lifeline = own_pidfd()
        with _Room():
            self.pid, self.participant = fork()
            if self.pid == 0:
                self._be_the_child(process_obj, lifeline)
        self._adopt()

    def _be_the_child(self, process_obj: Any, lifeline: int) -> None:
        """Runs the process object and ends this process. Never returns."""
        code = 1
        try:
            arm_lifeline(lifeline)
            if ATEXIT_RUNS:
                atexit._clear()
                atexit.register(util._exit_function)  # type: ignore[attr-defined]
            code = process_obj._bootstrap(parent_sentinel=lifeline)
        finally:
            end_child(code)

    def _adopt(self, pidfd: int = -1) -> None:
        """Puts the child that has just been started under supervision."""
        try:
            self._child = Child(self.pid, self._name, self.participant, pidfd)
        except ProcessLookupError:
            self._gone_already()
            return
        except BaseException:
            # A child that cannot be watched is not left running unwatched.
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            raise
        self.sentinel = self._child.sentinel

    def _gone_already(self) -> None:
        """The child has ended, and somebody else has collected it, before it could be watched."""
        self.sentinel, writer = os.pipe()
        os.close(writer)  # so the sentinel is ready, and stays so
        self.finalizer = util.Finalize(self, os.close, (self.sentinel,))
        self.returncode = self._unknown()

    def _unknown(self) -> int:
        util.sub_warning(
            "the exit status of process %r (pid %d) was collected by somebody else (os.wait, a SIGCHLD handler, or "
            "SIGCHLD ignored): its exit code is given as %d",
            self._name,
            self.pid,
            UNKNOWN,
        )
        return UNKNOWN

    def _collect(self) -> int | None:
        """The exit code of a process that has ended; None if it has not."""
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            return self._collected_by_another()
        return os.waitstatus_to_exitcode(status) if pid == self.pid else None

    def _collected_by_another(self) -> int | None:
        if not self._wait_for_end(0):
            return None
        code = self._child.report()
        return self._unknown() if code is None else code

    def _wait_for_end(self, timeout: float | None) -> bool:
        """True once the process has ended; False if that takes longer than ``timeout`` seconds."""
        if timeout is not None and not hasattr(timeout, "__float__") and not hasattr(timeout, "__index__"):
            raise TypeError(f"timeout must be a number of seconds or None, not {type(timeout).__name__!r}")
        deadline = None if timeout is None else time.monotonic() + float(timeout)
        poller = select.poll()
        poller.register(self.sentinel, select.POLLIN)
        while True:
            left = LONGEST if deadline is None else min(max(deadline - time.monotonic(), 0.0), LONGEST)
            if poller.poll(left * 1000):
                return True
            if deadline is not None and time.monotonic() >= deadline:
                return False


def end_child(code: int) -> NoReturn:
    """Ends a child that was forked, as the standard library of this Python does."""
    try:
        if ATEXIT_RUNS:
            atexit._run_exitfuncs()
        leave()
    finally:
        os._exit(code)


class _Room:
    """Keeps a descriptor free over a fork, so that the child can be watched even where the table was all but full."""

    def __enter__(self) -> None:
        self.descriptor = os.dup(own_pidfd())

    def __exit__(self, *exception: object) -> None:
        os.close(self.descriptor)
