"""Arrays that lie in session memory: every process that is given one has the same bytes."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import data_tasks
import polyproc as mp
import pytest
from conftest import TIME, kill

numpy = pytest.importorskip("numpy")


def address(array: Any) -> int:
    return int(array.__array_interface__["data"][0])


def test_a_process_writes_into_the_array_of_its_parent(context: Any, start: Callable[..., Any]) -> None:
    array = mp.zeros((3, 1000))
    process = start(context, data_tasks.fill, array[1], 5.0)
    process.join(TIME)
    assert process.exitcode == 0
    assert array.sum() == 5000
    assert array[1].min() == 5


def test_a_pool_gives_and_takes_it_without_a_copy(context: Any) -> None:
    array = mp.empty(100_000)
    with context.Pool(2) as pool:
        same = pool.apply(data_tasks.fill, (array[::2], 3.0))
        assert (address(same), same.strides) == (address(array), (16,))
        array[0] = 4
        assert same[0] == 4
        made = pool.apply(mp.asarray, ([1.0, 2.0],))
        assert pool.map(data_tasks.itself, [made])[0] is not made
        assert address(pool.apply(data_tasks.itself, (made,))) == address(made)


@pytest.mark.parametrize("view", [numpy.s_[:], numpy.s_[10:20], numpy.s_[::-3], numpy.s_[5], numpy.s_[:0]])
def test_a_view_arrives_as_the_same_view(view: Any) -> None:
    array = mp.asarray(numpy.arange(600).reshape(100, 6))
    queue = mp.Queue()
    queue.put(array[view])
    got = queue.get()
    assert numpy.array_equal(got, array[view])
    assert got.strides == array[view].strides
    got[...] = -1
    assert (array[view] == -1).all()


def test_types_orders_and_flags_are_kept() -> None:
    left, right = mp.Pipe()
    kinds = ["bool", "<u2", ">f8", "complex128", "U5", "M8[s]", [("a", "i4"), ("b", "f8")]]
    for dtype in kinds:
        array = mp.zeros((4, 5), dtype, order="F")
        array.flags.writeable = False
        left.send(array)
        got = right.recv()
        assert (got.dtype, got.strides, got.flags.writeable) == (array.dtype, array.strides, False)
        assert numpy.array_equal(got, array)


def test_asarray_takes_an_array_of_the_session_as_it_is() -> None:
    array = mp.asarray(numpy.asfortranarray(numpy.ones((30, 40))))
    assert array.flags.f_contiguous
    assert mp.asarray(array) is array
    assert address(mp.asarray(array[3:])) == address(array[3:])
    assert mp.asarray(array, int).dtype == int


def test_zeros_are_zero_where_other_data_lay() -> None:
    for _ in range(5):
        array = mp.zeros(300_000)
        assert not array.any()
        array.fill(7)


def test_what_has_no_place_in_shared_memory_is_refused() -> None:
    with pytest.raises(TypeError, match="addresses of this process's objects"):
        mp.empty(3, object)
    with pytest.raises(ValueError, match="order"):
        mp.empty(3, order="X")
    with pytest.raises(ValueError, match="negative"):
        mp.zeros((3, -1))


def test_a_plain_pickle_has_the_contents() -> None:
    array = mp.asarray([1.0, 2.0])
    copy = pickle.loads(pickle.dumps(array))
    copy[0] = 9
    assert array.tolist() == [1.0, 2.0]


def test_other_arrays_stay_private(pool: Any) -> None:
    mp.empty(1)
    array = numpy.ones(100_000)
    assert pool.apply(data_tasks.describe, (array,)) == (100_000, True, True)
    assert array[0] == 1


def test_it_outlives_a_holder_that_is_killed(start: Callable[..., Any]) -> None:
    context = mp.get_context("spawn")
    ours, theirs = context.Pipe()
    array = mp.asarray(numpy.full(100_000, 6.0))
    process = start(context, data_tasks.hold_and_wait, array, theirs)
    assert ours.poll(TIME)
    assert ours.recv() == 6
    kill(process)
    assert array.sum() == 600_000


USE_AGAIN = """
import sys
import polyproc as mp

def touch(array):
    return float(array[-1])

def keep(array, connection):
    connection.send(float(array[-1]))
    connection.recv()

if __name__ == "__main__":
    context = mp.get_context(sys.argv[1])
    with context.Pool(2) as pool:
        for number in range(12):
            array = mp.zeros(1_000_000)
            array[-1] = number
            assert pool.apply(touch, (array,)) == number
            del array
    for number in range(12):
        array = mp.zeros(1_000_000)
        ours, theirs = context.Pipe()
        process = context.Process(target=keep, args=(array, theirs))
        process.start()
        ours.recv()
        process.kill()
        process.join()
        del array
    print("enough")
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_the_memory_comes_back_from_those_who_drop_it_and_those_who_die(
    method: str, run_script: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    # Each array takes 8 MB of 30.
    done = run_script(USE_AGAIN, method, env=dict(os.environ, POLYPROC_MEMORY_BUDGET="30M"))
    assert done.stdout == "enough\n", done.stderr


def test_without_numpy_the_error_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "numpy.py").write_text("raise ImportError('no numpy here')")
    program = "import polyproc as mp; mp.empty(3)"
    environment = dict(os.environ, PYTHONPATH=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)
    assert "ImportError: arrays in session memory are numpy arrays: install numpy" in done.stderr
