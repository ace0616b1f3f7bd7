"""The worker's side of a pool. An *own* module, with little to import: it is the first thing that a worker runs."""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

from . import _pool_errors, _pool_functions, _polyproc, process, util

__all__: list[str] = []


class Place:
    """A worker's place in its pool, as an argument of its process."""

    def __init__(self, seat: Any) -> None:
        self._seat = seat
        self.handle: bytes = seat.handle

    def __reduce__(self) -> tuple[Any, ...]:
        return OpenedPlace, (self._seat._share(),)


class OpenedPlace:
    """The same in a worker that was not forked."""

    def __init__(self, handle: bytes) -> None:
        self.handle = handle


def work(
    place: Place | OpenedPlace,
    initializer: Callable[..., object] | None = None,
    initargs: Iterable[Any] = (),
    maxtasks: int | None = None,
) -> None:
    """What a worker does: the initializer, then tasks until the pool says that it is enough."""
    if isinstance(place, Place):
        _forget_half_imports()
    # It ends with its parent like any daemon, but may have children of its own.
    process.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
    try:
        end = _polyproc.Worker(place.handle)
    except OSError:
        util.debug("the pool is gone -- exiting")
        return
    _pool_functions.remember()
    if initializer is not None:
        try:
            initializer(*initargs)
        except BaseException as error:
            end.note(_pool_errors.describe(error))
            raise
    try:
        end.work(_pool_errors.describe, _pool_errors.refuse)
    except KeyboardInterrupt:
        util.debug("interrupted between tasks -- exiting")
    util._flush_std_streams()  # type: ignore[attr-defined]  # at once: the rest of the end may take too long
    util.debug("worker exiting")


def _forget_half_imports() -> None:
    """Modules that another thread of the parent was importing at the fork: here nobody would ever finish that.

    A replacement is forked by whatever thread notices that it is needed. Without this, a task that imports such a module
    waits for a lock whose owner does not exist.
    """
    locks = getattr(importlib._bootstrap, "_module_locks", {})
    me = threading.get_ident()
    for name, reference in list(locks.items()):
        lock = reference()
        owner = getattr(lock, "owner", me)
        if owner == me:
            continue
        # Also a lock that nobody owns: another thread may have been about to take it.
        del locks[name]
        module = sys.modules.get(name)
        if owner is not None and getattr(getattr(module, "__spec__", None), "_initializing", False):
            del sys.modules[name]
