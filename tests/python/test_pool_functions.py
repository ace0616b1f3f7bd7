"""Functions of the main module that are defined anew while a pool's workers run, as in a notebook."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

REDEFINED = """
import sys
import polyproc

STATE = None


def begin(state):
    global STATE
    STATE = state


def f(x):
    return ("old", x, STATE)


def helper(x):
    return x + 1


def through(x):
    return helper(x)


def kept(x):
    return "as it is in the module"


def change():
    def kept(x):
        return "as the initializer has it"

    kept.__qualname__ = "kept"
    sys.modules["__main__"].kept = kept


def both(state):
    begin(state)
    change()


if __name__ == "__main__":
    with polyproc.get_context(sys.argv[1]).Pool(2, both, (7,)) as pool:
        assert pool.map(f, [1] * 4) == [("old", 1, 7)] * 4
        assert pool.apply(f, (2,)) == ("old", 2, 7)
        assert pool.map(through, [1] * 4) == [2] * 4

        def f(x, more=3, *, last=4):
            return ("new", x, STATE, more, last)

        assert pool.map(f, [1] * 4) == [("new", 1, 7, 3, 4)] * 4
        assert pool.apply(f, (2,), {"last": 5}) == ("new", 2, 7, 3, 5)
        assert list(pool.imap(f, [1] * 4)) == [("new", 1, 7, 3, 4)] * 4

        # A function that it calls.
        def helper(x):
            return x + 1000

        assert pool.map(through, [1] * 4) == [1001] * 4

        # One that was not there, and what it needs.
        import fractions

        def half(x):
            return helper(fractions.Fraction(x, 2))

        assert pool.map(half, [2] * 4) == [1001] * 4

        # Back again.
        def f(x):
            return ("old", x, STATE)

        assert pool.map(f, [1] * 4) == [("old", 1, 7)] * 4

        # What a worker has changed by itself stays.
        assert pool.map(kept, [1] * 4) == ["as the initializer has it"] * 4
    print("fine")
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_function_that_is_defined_anew_is_run_anew(method: str, run_script: Callable[..., Any]) -> None:
    answer = run_script(REDEFINED, method)
    assert answer.stdout == "fine\n", answer


PROMPT = """
import sys
import polyproc
factor = 2
def f(x):
    return x * factor

pool = polyproc.get_context(sys.argv[1]).Pool(1)
print(pool.map(f, [1, 2]), pool.apply(f, (3,)))
def f(x):
    return x - factor

print(pool.map(f, [1, 2]), pool.apply(f, (3,)))
offset = lambda x: f(x) + 100
print(pool.map(offset, [1, 2]))
def f(x):
    return x

print(pool.map(offset, [1, 2]))
print(pool.map(lambda x: -f(x), [1, 2]))
pool.terminate()
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_function_typed_at_a_prompt_is_run_as_it_was_typed_last(method: str) -> None:
    pytest.importorskip("cloudpickle")
    command = [sys.executable, "-", method]
    answer = subprocess.run(command, input=PROMPT, capture_output=True, text=True, timeout=60)
    assert answer.stdout.splitlines() == ["[2, 4] 6", "[-1, 0] 1", "[99, 100]", "[101, 102]", "[-1, -2]"], answer
