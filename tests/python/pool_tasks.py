"""What the tests of pools give to workers: in a module, so that every start method finds it."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import polyproc as mp

def square(x: int) -> int:
    return x * x


def add(a: int, b: int = 0) -> int:
    return a + b


def pid_of_worker(_: object = None) -> int:
    return os.getpid()


def pid_of_worker_after(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def identity(x: object) -> object:
    return x


def refuse_sevens(x: int) -> int:
    if x % 7 == 0:
        raise ValueError(f"seven: {x}")
    return x


def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def kill_at_five(x: int) -> int:
    if x == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def exit_at_two(x: int) -> int:
    if x == 2:
        os._exit(7)
    return x


def sys_exit_at_two(x: int) -> int:
    if x == 2:
        sys.exit(3)
    return x


class Stubborn:
    def __reduce__(self) -> Any:
        raise TypeError("not to be pickled")


class TwoArguments(Exception):
    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"code {code}: {reason}")


def return_stubborn(x: int) -> object:
    return Stubborn() if x == 2 else x


def raise_two_arguments(x: int) -> int:
    if x == 2:
        raise TwoArguments(77, "bad input")
    return x


def refuse(text: str) -> None:
    raise ValueError(text)


class Bomb:
    def __reduce__(self) -> Any:
        return refuse, ("cannot be rebuilt",)


def pool_in_a_task(x: int) -> int:
    with mp.Pool(1) as pool:
        return pool.apply(square, (x,))


def once(path: str, how: str) -> str:
    """Fails the first time."""
    if not os.path.exists(path):
        Path(path).touch()
        if how == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        raise ValueError("the first time")
    return "done"


def raise_in_initializer(path: str) -> None:
    with open(path, "a") as file:
        file.write("started\n")
    raise ValueError("no licence")


def ignore_sigterm(_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(60)


def deep(_: object) -> list[Any]:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    return nested
