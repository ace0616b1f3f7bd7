"""How errors of a pool's tasks travel, and what they say. An *own* module.

A worker sends an exception as a description: its pickle, its traceback as text, and its repr. The parent makes the
exception anew, with the text as its cause; where that cannot be done, an error that says so, with the repr.
"""

from __future__ import annotations

import signal
import traceback
from typing import Any

from . import _pickling, errors
from ._borrowed import standard

__all__: list[str] = []

_standard_pool = standard("pool")
MaybeEncodingError = _standard_pool.MaybeEncodingError
RemoteTraceback = _standard_pool.RemoteTraceback

#: The longest repr of an argument in a message.
LONGEST = 100

#: What a description says of the exception.
_RAISED, _EXITED, _REFUSED = "raised", "exited", "refused"


def describe(error: BaseException) -> tuple[str, bytes | None, str, str]:
    """In a worker: what is sent of an exception that a task has raised."""
    text = _traceback_of(error)
    if isinstance(error, (SystemExit, KeyboardInterrupt, GeneratorExit)):
        return _EXITED, None, text, _what_ended(error)
    try:
        pickle = bytes(_pickling.standard_pickle(error))
    except Exception as reason:
        return _REFUSED, None, text, _both(error, reason)
    return _RAISED, pickle, text, short(error)


def refuse(reason: BaseException, value: object, is_value: bool) -> tuple[str, bytes | None, str, str]:
    """In a worker: what is sent instead of a result, or a description, that cannot be sent because of ``reason``."""
    if not isinstance(reason, Exception):
        return describe(reason)
    return _REFUSED, None, _traceback_of(reason), _both(value if is_value else "an exception", reason)


#: Which task it was: its place in its call, whether its argument is known, and the argument.
_Which = tuple["int | None", bool, object]


def rebuild(described: tuple[str, bytes | None, str, str], which: _Which = (None, False, None)) -> BaseException:
    """In the parent: the exception that a worker has described."""
    what, pickle, text, shown = described
    cause = RemoteTraceback(f'\n"""\n{text}"""')
    error: BaseException
    if what == _EXITED:
        error = errors.TaskExitError(f"{_task(which)} {shown}")
    elif what == _REFUSED or pickle is None:
        value, _, reason = shown.partition("\0")
        error = _encoding_error(value, f"{reason}, in {_task(which)}")
    else:
        try:
            error = _pickling.read_standard_pickle(pickle)
            if not isinstance(error, BaseException):
                raise TypeError(f"its pickle gives a {type(error).__name__}, not an exception")
        except Exception as reason:
            why = f"the exception that {_task(which)} raised cannot be rebuilt here: {short(reason)}"
            error = _encoding_error(shown, why)
    error.__cause__ = cause
    return error


def unreadable(reason: Exception, which: _Which = (None, False, None)) -> Exception:
    """In the parent: the error of a result that cannot be unpickled."""
    why = f"the result of {_task(which)} cannot be rebuilt here: {short(reason)}"
    error: Exception = _encoding_error("a result that came back", why)
    error.__cause__ = reason
    return error


def _task(which: _Which) -> str:
    """Which task it was, in words."""
    index, has_argument, argument = which
    task = "a task" if index is None else f"task {index}"
    return f"{task} ({'arguments' if index is None else 'argument'} {short(argument)})" if has_argument else task


def died(
    which: _Which, pid: int, exitcode: int | None, ended: str, kills: tuple[int, int] | None = None
) -> errors.WorkerDiedError:
    """The error of a task in which a worker died.

    ``kills``: how often the kernel had killed for want of memory in our cgroup before, and after, if that was more.
    """
    if exitcode is not None:
        ended = _how(exitcode)
    code = f" (exit code {exitcode})" if exitcode is not None and exitcode < 0 else ""
    memory = ""
    if kills is not None and exitcode == -signal.SIGKILL:
        memory = (
            f". Memory ran out: the kernel's count of processes killed for that in this cgroup (oom_kill) rose from "
            f"{kills[0]} to {kills[1]}"
        )
    return errors.WorkerDiedError(
        f"the worker process with pid {pid} {ended}{code} while it ran {_task(which)}; "
        f"the pool goes on without that task{memory}",
        pid,
        exitcode,
        which[0],
    )


def timed_out(which: _Which, pid: int, seconds: float) -> errors.TaskTimeoutError:
    """The error of a task that ran longer than it may."""
    return errors.TaskTimeoutError(
        f"{_task(which)} ran longer than {seconds:g} s in the worker process with pid {pid}, "
        "which was ended and replaced"
    )


def took_too_much(which: _Which, pid: int, limit: int, took: int) -> errors.TaskMemoryError:
    """The error of a task that took more memory than it may."""
    return errors.TaskMemoryError(
        f"{_task(which)} took {took / 2**20:.1f} MiB of memory more than its worker process had "
        f"before it, and may take {limit / 2**20:.1f} MiB (memory_limit={limit}); the pool measured it from outside, and "
        f"ended and replaced the worker (pid {pid})"
    )


def cancelled() -> errors.TaskCancelledError:
    """The error of a task that was given up."""
    return errors.TaskCancelledError("the task was cancelled")


def terminated() -> errors.PoolTerminatedError:
    """The error of a task that was not done when the pool was terminated."""
    return errors.PoolTerminatedError("the pool was terminated before this task was done")


def broken(note: Any, last: tuple[int, int | None, str] | None) -> Exception:
    """The error of a task of a pool whose workers end before they are ready."""
    message = "the pool gives up: its workers end before they are ready for a task, one after another"
    if last is not None:
        pid, exitcode, ended = last
        message += f"; the last one (pid {pid}) {ended if exitcode is None else _how(exitcode)}"
    if isinstance(note, tuple):
        message += f"; the initializer failed: {note[3].partition(chr(0))[0]}"
    else:
        message += "; what it wrote to stderr may tell why (can it import the main module?)"
    error: Exception = errors.PoolBrokenError(message)
    if isinstance(note, tuple):
        error.__cause__ = rebuild(note)
    return error


def short(value: object) -> str:
    """The repr of ``value``, cut to a line."""
    try:
        shown = repr(value)
    except Exception as error:
        shown = f"<{type(value).__name__} whose repr raises {type(error).__name__}>"
    return shown if len(shown) <= LONGEST else f"{shown[: LONGEST - 3]}..."


def _how(exitcode: int) -> str:
    if exitcode >= 0:
        return f"exited with code {exitcode}"
    try:
        return f"was killed by {signal.Signals(-exitcode).name}"
    except ValueError:
        return f"was killed by signal {-exitcode}"


def _traceback_of(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(type(error), error, error.__traceback__))
    except Exception as reason:
        return f"{type(error).__name__} (its traceback cannot be shown: {reason!r})\n"


def _what_ended(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"called sys.exit({'' if error.code is None else short(error.code)}) (SystemExit)"
    return f"was interrupted in its worker process ({type(error).__name__})"


def _both(value: object, reason: BaseException) -> str:
    return f"{short(value)}\0{short(reason)}"


def _encoding_error(value: str, reason: str) -> Any:
    error = MaybeEncodingError(reason, value)
    # Reprs of reprs are hard to read.
    error.value, error.exc = value, reason
    error.args = (reason, value)
    return error
