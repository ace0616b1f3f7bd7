"""Stand-in for the engine's process layer, until the extension module is there."""

from __future__ import annotations

import os
import select
import signal

__all__: list[str] = []

_own: tuple[int, int] = (0, -1)


def own_pidfd() -> int:
    global _own
    if _own[0] != os.getpid():
        _own = (os.getpid(), os.pidfd_open(os.getpid()))
    return _own[1]


def fork() -> int:
    return os.fork()


def arm_lifeline(descriptor: int) -> None:
    pass


class Child:
    def __init__(self, pid: int, name: str, pidfd: int = -1) -> None:
        self.pid = pid
        self.sentinel = pidfd if pidfd >= 0 else os.pidfd_open(pid)

    def __del__(self) -> None:
        os.close(self.sentinel)

    def report(self) -> int | None:
        return None

    def send_signal(self, number: int) -> None:
        signal.pidfd_send_signal(self.sentinel, number)
