"""Pools: how they end, and that they leave nothing."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from conftest import until
from pool_tasks import ignore_sigterm, sleep, square

import polyproc as mp


def test_close_and_join_do_what_was_submitted() -> None:
    pool = mp.Pool(2)
    results = [pool.apply_async(square, (x,)) for x in range(50)]
    stream = pool.imap(square, range(100))
    pool.close()
    with pytest.raises(ValueError, match="not running"):
        pool.apply(square, (1,))
    pool.join()
    assert [r.get(0) for r in results] == [x * x for x in range(50)]
    assert list(stream) == [x * x for x in range(100)]
    assert not mp.active_children()


def test_terminate_ends_workers_that_will_not() -> None:
    pool = mp.Pool(2)
    result = pool.map_async(ignore_sigterm, range(2), chunksize=1)
    with pytest.raises(mp.TimeoutError):
        result.get(0.3)
    os.kill(pool._pool[0].pid, signal.SIGSTOP)
    begun = time.monotonic()
    pool.terminate()
    pool.join()
    assert time.monotonic() - begun < 5
    with pytest.raises(mp.PoolTerminatedError):
        result.get()
    assert not mp.active_children()


def test_a_pool_that_is_dropped_ends_its_workers() -> None:
    pool = mp.Pool(2)
    pids = [worker.pid for worker in pool._pool]
    assert pool.map(square, range(3)) == [0, 1, 4]
    with pytest.warns(ResourceWarning, match="unclosed running multiprocessing pool"):
        del pool
        gc.collect()
    until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids))


def test_nothing_stays_open() -> None:
    with mp.Pool(2) as pool:
        pool.map(square, range(10))
    pool.join()
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with mp.Pool(2) as pool:
            pool.map(square, range(10))
        pool.join()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        del pool
        gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before + 1


def test_a_forked_child_is_told_that_the_pool_is_not_its_own(pool: Any) -> None:
    assert pool.apply(square, (2,)) == 4
    queue = mp.SimpleQueue()
    child = mp.get_context("fork").Process(target=_use, args=(pool, queue))
    child.start()
    assert "belongs to the process" in queue.get()
    child.join()
    assert pool.apply(square, (3,)) == 9


def _use(pool: Any, queue: Any) -> None:
    try:
        pool.apply(square, (2,))
    except RuntimeError as error:
        queue.put(str(error))


def test_ctrl_c_ends_a_map(pool: Any) -> None:
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        pool.map(sleep, [30, 30])
    timer.join()


PRINTING = """
import sys
import polyproc

if __name__ == "__main__":
    with polyproc.get_context(sys.argv[1]).Pool(2) as pool:
        for _ in pool.imap(print, range(8)):
            pass
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_what_idle_workers_have_printed_is_written_before_they_end(method: str, run_script: Callable[..., Any]) -> None:
    answer = run_script(PRINTING, method)
    # Two workers write to one pipe: a line of one may lie within a line of the other.
    assert sorted("".join(answer.stdout.split())) == list("01234567"), answer
