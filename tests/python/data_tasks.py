"""What the tests of arrays and shared objects give to workers: in a module, so that every start method finds it."""

from __future__ import annotations

import os
import time
from typing import Any


def itself(item: Any) -> Any:
    return item


def fill(array: Any, number: float) -> Any:
    array[...] = number
    return array


def describe(array: Any) -> tuple[float, bool, bool]:
    """Its sum, whether it may be written to, and whether writing works."""
    total = float(array.sum())
    if array.flags.writeable:
        array[0] = -1
    return total, bool(array.flags.writeable), float(array.flat[0]) == -1


def use(shared: Any) -> tuple[int, int, float, bool]:
    """Who asks, the identity of what was asked for, what is in it, and whether that may be written to."""
    value = shared.value
    # Long enough that both workers get some.
    time.sleep(0.01)
    return os.getpid(), id(value), float(value["table"].sum()), bool(value["table"].flags.writeable)


def use_and_die(shared: Any) -> None:
    shared.value["table"].sum()
    os._exit(3)


def hold_and_wait(array: Any, connection: Any) -> None:
    connection.send(float(array[0]))
    connection.recv()


def lower(frame: Any) -> Any:
    """Changes a frame that it was given in its place."""
    frame.iloc[0, 0] = -1.0
    return frame


def count_rows(table: Any) -> int:
    return int(table.num_rows)
