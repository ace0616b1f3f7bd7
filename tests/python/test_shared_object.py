"""`Pool.share`: one object for many tasks, stored once."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from functools import partial
from typing import Any

import data_tasks
import polyproc as mp
import pytest
from conftest import TIME

numpy = pytest.importorskip("numpy")


def a_table() -> dict[str, Any]:
    return {"table": numpy.ones(200_000), "name": "ones"}


def test_each_worker_unpickles_it_once_and_cannot_write_to_its_arrays(context: Any) -> None:
    with context.Pool(2) as pool:
        shared = pool.share(a_table())
        answers = pool.map(data_tasks.use, [shared] * 30, chunksize=1)
    assert {answer[2:] for answer in answers} == {(200_000.0, False)}
    workers = {pid for pid, *_ in answers}
    assert len({(pid, identity) for pid, identity, *_ in answers}) == len(workers) <= 2


def test_what_travels_is_a_name(pool: Any) -> None:
    queue = mp.Queue()
    shared = pool.share(a_table())
    queue.put([shared, shared])
    first, second = queue.get()
    assert first is second is shared
    assert shared.value is shared.value
    assert shared.value["name"] == "ones"


def test_it_goes_through_a_queue_to_any_process(context: Any, start: Callable[..., Any], pool: Any) -> None:
    queue, answers = context.Queue(), context.Queue()
    shared = pool.share(a_table())
    process = start(context, answer, queue, answers)
    queue.put(shared)
    assert answers.get(timeout=TIME)[2:] == (200_000.0, False)
    process.join(TIME)


def answer(queue: Any, answers: Any) -> None:
    answers.put(data_tasks.use(queue.get()))


def test_a_function_may_carry_it(pool: Any) -> None:
    answers = pool.map(partial(with_number, pool.share(a_table())), range(20))
    assert answers == [200_000 + number for number in range(20)]


def with_number(shared: Any, number: int) -> float:
    return float(shared.value["table"].sum()) + number


def test_it_survives_the_worker_that_used_it(context: Any) -> None:
    with context.Pool(1) as pool:
        shared = pool.share(a_table())
        with pytest.raises(mp.WorkerDiedError):
            pool.apply(data_tasks.use_and_die, (shared,))
        assert pool.apply(data_tasks.use, (shared,))[2] == 200_000


def test_it_outlives_the_sender_of_a_message() -> None:
    queue = mp.Queue()
    with mp.Pool(1) as pool:
        shared = pool.share(a_table())
        queue.put(shared)
        del shared
    assert queue.get().value["table"].sum() == 200_000


def test_what_cannot_be_stored_is_refused_at_once(pool: Any) -> None:
    with pytest.raises(RuntimeError, match="Lock"):
        pool.share([mp.Lock()])


SHARE_AGAIN = """
import sys
import polyproc as mp

def look(shared):
    return shared.value[-1]

def nothing(_):
    pass

if __name__ == "__main__":
    import numpy
    with mp.get_context(sys.argv[1]).Pool(1) as pool:
        for number in range(15):
            shared = pool.share(numpy.full(1_000_000, number))
            assert pool.map(look, [shared] * 3, chunksize=1) == [number] * 3
            del shared
            pool.apply(nothing, (0,))
    print("enough")
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_the_memory_comes_back_when_the_last_has_dropped_it(
    method: str, run_script: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    # Each takes 8 MB of 30.
    done = run_script(SHARE_AGAIN, method, env=dict(os.environ, POLYPROC_MEMORY_BUDGET="30M"))
    assert done.stdout == "enough\n", done.stderr
