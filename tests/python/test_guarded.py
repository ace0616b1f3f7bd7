"""Values and arrays under their lock do what the standard library's do, to the word, and leave the lock as it was."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import weakref
from collections.abc import Callable
from typing import Any

import pytest

import polyproc as mp
from polyproc import sharedctypes

CODES = "bBhHiIlLqQfd"

#: What may be read or written: each is done with the standard library's array or value as well.
INDICES: list[Any] = [
    0, 3, -1, -4, 4, -5, 2**70, -(2**70), True, 1.5, "1", None, slice(None), slice(1, 3), slice(None, None, 2),
    slice(None, None, -1), slice(3, 0, -2), slice(2, 1), slice(-9, 9), slice(None, None, 0), slice("a", 2),
]  # fmt: skip
NUMBERS: list[Any] = [
    0, 1, -1, 127, 128, 255, 256, 2**31, 2**32 + 5, 2**63, 2**64 - 1, -(2**63), 2**200, True, 1.5, -0.0, float("inf"),
    float("nan"), 1e300, "x", b"x", None, 3 + 1j,
]  # fmt: skip
LISTS: list[Any] = [[1, 2], (1, 2), [1.5, 2], [1], [1, 2, 3], range(2), [1, "x"], [2**40, -1], "ab", iter([1, 2]), None]


class Point(ctypes.Structure):
    _fields_ = [("x", ctypes.c_double), ("count", ctypes.c_int)]


def told(act: Callable[[], Any]) -> Any:
    """What `act` returns or raises, in a form that can be compared."""
    try:
        return repr(act())
    except Exception as error:
        return type(error), str(error)


def both(make: Callable[[Any], Any], act: Callable[[Any], Any]) -> tuple[Any, Any]:
    """What `act` says of the two libraries' objects, and what they are then. Ours must not be left locked."""
    results = []
    for library in mp, multiprocessing:
        wrapper = make(library)
        result = told(lambda wrapper=wrapper: act(wrapper))
        obj = wrapper.get_obj()
        results.append((result, bytes(memoryview(obj).cast("B"))))
        assert wrapper.acquire(False) is True and wrapper.release() is None
        assert wrapper.get_lock()._semlock._count() == 0
    return results[0], results[1]


@pytest.mark.parametrize("code", CODES)
def test_items_are_as_in_the_standard_library(code: str) -> None:
    def make(library: Any) -> Any:
        return library.Array(code, [1, 2, 3, 4])

    for index in INDICES:
        ours, theirs = both(make, lambda array, index=index: array[index])
        assert ours == theirs, index
        for value in NUMBERS if isinstance(index, int) else LISTS:
            ours, theirs = both(make, lambda array, index=index, value=value: array.__setitem__(index, value))
            assert ours == theirs, (index, value)


def test_values_are_as_in_the_standard_library() -> None:
    for kind in [*CODES, ctypes.c_bool, ctypes.c_char, ctypes.c_wchar]:
        for value in NUMBERS:

            def write(wrapper: Any, value: Any = value) -> Any:
                wrapper.value = value
                return wrapper.value

            ours, theirs = both(lambda library, kind=kind: library.Value(kind), write)
            assert ours == theirs, (kind, value)


def test_an_array_can_be_gone_through_and_not_shortened() -> None:
    for act in list, len, (lambda array: 3.0 in array), (lambda array: [*reversed(array)]):
        ours, theirs = both(lambda library: library.Array("d", [1, 2, 3]), act)
        assert ours == theirs
    with pytest.raises(TypeError, match="deletion"):
        del mp.Array("d", 3)[0]
    with pytest.raises(AttributeError, match="value"):
        del mp.Value("i").value


def test_strings_are_as_in_the_standard_library() -> None:
    def write(array: Any) -> Any:
        array.value = b"abc"
        array[1] = b"x"
        array[3:5] = b"yz"
        return array.value, array.raw, array[2], array[:4], len(array)

    ours, theirs = both(lambda library: library.Array("c", 6), write)
    assert ours == theirs and "yz" in ours[0]


def test_a_structure_has_its_fields() -> None:
    point = mp.Value(Point, 1.5, 2)
    point.x += 1
    point.count *= 2
    assert (point.x, point.count, type(point).__name__) == (2.5, 4, "SynchronizedPoint")
    with pytest.raises(TypeError):
        point.x = "far"
    assert point.acquire(False)


class CountingLock:
    """A lock of the program's own."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def acquire(self, *_: Any) -> bool:
        self.log.append("acquire")
        return True

    def release(self) -> None:
        self.log.append("release")

    def __enter__(self) -> bool:
        self.log.append("enter")
        return True

    def __exit__(self, kind: Any, *_: Any) -> None:
        self.log.append("exit" if kind is None else f"exit {kind.__name__}")


def test_a_lock_of_the_programs_own_is_asked() -> None:
    lock = CountingLock()
    value: Any = sharedctypes.synchronized(sharedctypes.RawValue("i", 1), lock)
    value.value += 1
    assert (value.get_obj().value, lock.log) == (2, ["acquire", "release"] * 2)
    lock.log.clear()
    array: Any = sharedctypes.synchronized(sharedctypes.RawArray("i", 2), lock)
    array[0] = 5
    with pytest.raises(IndexError):
        array[2]
    with array:
        pass
    assert lock.log == ["enter", "exit", "enter", "exit IndexError", "enter", "exit"]


def test_a_lock_that_overrides_what_locking_is_gets_its_way() -> None:
    class Loud(type(mp.Lock())):  # type: ignore[misc]
        taken = 0

        def acquire(self, *arguments: Any) -> Any:
            Loud.taken += 1
            return super().acquire(*arguments)

    value = mp.Value("i", lock=Loud(ctx=mp.get_context()))
    value.value = 3
    assert (value.value, Loud.taken) == (3, 2)


def test_a_wrapper_of_the_programs_own_can_say_what_with_means() -> None:
    class Watched(sharedctypes.SynchronizedArray):
        entered = 0

        def __enter__(self) -> Any:
            self.entered += 1
            return super().__enter__()

    array = Watched(sharedctypes.RawArray("i", [1, 2]), mp.RLock())
    assert (array[1], array[:], array.entered) == (2, [1, 2], 2)


def test_a_given_lock_is_the_lock() -> None:
    lock = mp.RLock()
    value, array = mp.Value("i", lock=lock), mp.Array("i", 1, lock=lock)
    assert value.get_lock() is array.get_lock() is lock
    with value:
        assert lock._is_mine()
        value.value = array[0] = 1
        assert lock._count() == 1
    assert lock._count() == 0


def test_an_object_that_can_be_moved_is_read_where_it_is() -> None:
    numbers = (ctypes.c_int * 2)(1, 2)
    array: Any = sharedctypes.synchronized(numbers)
    ctypes.resize(numbers, 4096)
    numbers[1] = 7
    assert array[1] == 7


def test_a_class_of_the_programs_own_decides_what_its_value_is() -> None:
    class Celsius(ctypes.c_double):
        @property
        def value(self) -> str:  # type: ignore[override]
            return "warm"

    assert mp.Value(Celsius, 20.5).value == "warm"


def test_a_wrapper_in_a_cycle_is_collected() -> None:
    value: Any = mp.Value("i")
    value.myself = value
    gone = weakref.ref(value)
    del value
    gc.collect()
    assert gone() is None


def test_a_wrapper_that_was_not_initialised_says_so() -> None:
    class Forgetful(sharedctypes.Synchronized):
        def __init__(self) -> None:
            pass

    for act in (
        lambda value: value.get_obj(),
        lambda value: value.get_lock(),
        lambda value: value.__enter__(),
        lambda value: value.__exit__(None, None, None),
    ):
        with pytest.raises(RuntimeError, match="super"):
            act(Forgetful())
