"""What may be asked for a task of a pool, beside its function and its arguments. An *own* module."""

from __future__ import annotations

from typing import TypedDict

__all__ = ["MapTerms", "TaskTerms"]


class TaskTerms(TypedDict, total=False):
    """Keyword arguments of every method that submits tasks.

    ``timeout``: seconds that a task may run. Then its worker is ended, and the task fails with
    :class:`polyproc.TaskTimeoutError`.

    ``memory_limit``: bytes that a task may take beyond what its worker had when the task began. The pool looks every few
    milliseconds, from outside, at the memory that the worker has for itself (resident, without what it shares: files and
    the session's blocks); a worker that is above the limit is ended, and the task fails with
    :class:`polyproc.TaskMemoryError`. What a task takes and gives back between two looks is not seen, nor is what a process
    takes that the task starts.

    ``priority``: of the tasks that have not begun, those with the highest number go first, and those with the same number
    in the order in which they were submitted. 0 by default.

    ``retries``: how often a task is done again whose worker died in it. ``error_retries``: how often one is done again that
    raised. Neither happens unless it is asked for, and neither after a timeout or too much memory.
    """

    timeout: float | None
    memory_limit: int | None
    priority: int
    retries: int
    error_retries: int


class MapTerms(TaskTerms, total=False):
    """The same for methods that submit many.

    ``on_error``: ``"raise"`` raises the first error, once the others have been done; with ``"return"`` errors stand where
    their results would; with ``"skip"`` they are left out.
    """

    on_error: str


#: What the extension module takes: timeout, retries, error_retries, priority, memory.
Policy = tuple["float | None", int, int, int, "int | None"]

_ON_ERROR = {"raise": 0, "return": 1, "skip": 2}
_LOWEST, _HIGHEST = -(2**31), 2**31 - 1


def mode(terms: MapTerms) -> int:
    """What is done with errors, as the extension module names it."""
    on_error = terms.get("on_error", "raise")
    try:
        return _ON_ERROR[on_error]
    except (KeyError, TypeError):
        raise ValueError(f"on_error must be 'raise', 'return' or 'skip', not {on_error!r}") from None


def policy(terms: TaskTerms | MapTerms) -> Policy:
    """The terms as the extension module takes them. Raises for what makes no sense."""
    for name in terms:
        if name not in MapTerms.__annotations__:
            known = ", ".join(sorted(MapTerms.__annotations__))
            raise TypeError(f"{name!r} is no keyword argument of a pool's tasks; there are: {known}")
    timeout = terms.get("timeout")
    if timeout is not None and not timeout > 0:
        raise ValueError(f"the timeout of a task must be more than 0 seconds, or None, not {timeout!r}")
    memory = bytes_or_none("memory_limit", terms.get("memory_limit"))
    counts = []
    for name in ("retries", "error_retries"):
        count = terms.get(name, 0)
        if not isinstance(count, int) or count < 0:
            raise ValueError(f"{name} must be a whole number, 0 or more, not {count!r}")
        counts.append(count)
    priority = terms.get("priority", 0)
    if not isinstance(priority, int) or not _LOWEST < priority <= _HIGHEST:
        raise ValueError(f"the priority of a task must be a whole number of 32 bits, not {priority!r}")
    return timeout, counts[0], counts[1], priority, memory


def bytes_or_none(name: str, value: int | None) -> int | None:
    """``value``, if it is a number of bytes or None."""
    if value is not None and (not isinstance(value, int) or value <= 0):
        raise ValueError(f"{name} must be a whole number of bytes, more than 0, or None, not {value!r}")
    return value
