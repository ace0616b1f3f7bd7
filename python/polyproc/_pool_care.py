"""Who looks after a pool's workers: notices that one has ended, runs callbacks, and ends them all. An *own* module."""

from __future__ import annotations

import os
import select
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

from . import util

__all__: list[str] = []

#: Seconds that workers have after SIGTERM, before SIGKILL.
PATIENCE = 1.0

#: Seconds that workers with nothing to do have to end by themselves, before SIGTERM.
GRACE = 0.5


def weakly(method: Callable[[], None]) -> Callable[[], None]:
    reference = weakref.WeakMethod(method)

    def call() -> None:
        target = reference()
        if target is not None:
            target()

    return call


def has_ended(worker: Any) -> bool:
    if worker.exitcode is not None:
        return True
    poller = select.poll()
    poller.register(worker.sentinel, select.POLLIN)
    return bool(poller.poll(0))


def settle(workers: list[Any]) -> None:
    """Waits until all is done that is to be done after workers that have ended: nothing of theirs is left open then."""
    deadline = time.monotonic() + PATIENCE
    for worker in workers:
        worker._seat.settle(max(0.0, deadline - time.monotonic()))


def call(callback: Callable[[Any], object], value: object) -> None:
    try:
        callback(value)
    except BaseException:
        # The result is delivered all the same; nobody but the program's stderr can be told.
        sys.excepthook(*sys.exc_info())


def terminate_pool(desk: Any, pool: list[Any], threads: list[threading.Thread], keeping: Any, owner: int) -> None:
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
    settle(workers)
    for thread in threads:
        if thread is not threading.current_thread():
            thread.join(PATIENCE)
