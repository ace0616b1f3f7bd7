"""Large arguments and results of pools: whole, private, writable, and given back."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from typing import Any

import data_tasks
import polyproc as mp
import pytest
from conftest import TIME

numpy = pytest.importorskip("numpy")


def test_arguments_and_results_are_the_receivers_own(context: Any) -> None:
    array = numpy.ones(100_000)
    with context.Pool(2) as pool:
        assert pool.map(data_tasks.describe, [array] * 6, chunksize=1) == [(100_000, True, True)] * 6
        results = pool.map(data_tasks.itself, [array] * 4)
        for number, result in enumerate(results):
            result.fill(number)
        assert [result.sum() for result in results] == [number * 100_000 for number in range(4)]
    assert array.sum() == 100_000


@pytest.mark.parametrize("kind", [bytes, bytearray, str])
@pytest.mark.parametrize("size", [5000, 100_000, 3_000_000])
def test_long_strings_arrive_whole(pool: Any, kind: type, size: int) -> None:
    item = "xyz" * size if kind is str else kind(os.urandom(size))
    (got,) = pool.imap_unordered(data_tasks.itself, [item])
    assert type(got) is kind
    assert got == item


def test_frames_are_the_receivers_own(pool: Any) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": numpy.ones(50_000), "b": numpy.arange(50_000.0), "c": ["text"] * 50_000})
    expected = frame.copy()
    changed = pool.apply(data_tasks.lower, (frame,))
    pandas.testing.assert_frame_equal(frame, expected)
    assert changed.iloc[0, 0] == -1
    changed.iloc[1, 1] = 7.0
    changed["d"] = changed["b"] * 2
    assert changed["d"][1] == 14
    pandas.testing.assert_frame_equal(pool.apply(data_tasks.itself, (frame,)), expected)


def test_arrow_tables_arrive_whole(pool: Any) -> None:
    arrow = pytest.importorskip("pyarrow")
    table = arrow.table({"number": list(range(50_000)), "text": [str(number) for number in range(50_000)]})
    assert pool.map(data_tasks.count_rows, [table, table.slice(10, 20)], chunksize=1) == [50_000, 20]
    (got,) = pool.imap_unordered(data_tasks.itself, [table])
    assert got.equals(table)


def test_results_are_private_to_each_side_of_a_fork(pool: Any, start: Callable[..., Any]) -> None:
    context = mp.get_context("fork")
    results = pool.map(data_tasks.itself, [numpy.ones(100_000), numpy.ones(3)])
    ours, theirs = context.Pipe()

    def write() -> None:
        for result in results:
            result.fill(5)
        theirs.send(sum(float(result.sum()) for result in results))

    process = start(context, write)
    for result in results:
        result.fill(2)
    assert ours.poll(TIME)
    assert ours.recv() == 5 * 100_003
    assert sum(result.sum() for result in results) == 2 * 100_003
    process.join(TIME)


USE_AGAIN = """
import os, sys
import numpy
import polyproc as mp

def make(number):
    return numpy.full(500_000, number)

def take(array):
    return int(array[-1])

def die(array):
    os._exit(1)

if __name__ == "__main__":
    with mp.get_context(sys.argv[1]).Pool(2) as pool:
        for array in pool.imap_unordered(make, range(40)):
            view = array[10:]
        del array, view
        assert pool.map(take, [make(number) for number in range(20)], chunksize=1) == list(range(20))
        for number in range(15):
            try:
                pool.apply(die, (make(number),))
            except mp.WorkerDiedError:
                pass
    print("enough")
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_blocks_come_back_from_those_who_drop_them_and_those_who_die(
    method: str, run_script: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    # Each array takes 4 MB of 60, of which a few are on their way at any time.
    done = run_script(USE_AGAIN, method, env=dict(os.environ, POLYPROC_MEMORY_BUDGET="60M"))
    assert done.stdout == "enough\n", done.stderr
