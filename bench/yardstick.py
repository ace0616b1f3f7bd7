"""What all measurements are made of."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MB = 1_000_000
now = time.perf_counter


@dataclass(frozen=True)
class Bench:
    mp: Any
    seconds: float

    def child(self, target: Callable[..., None], *args: Any) -> Any:
        process = self.mp.Process(target=target, args=args, daemon=True)
        process.start()
        return process

    def often_enough(self, trial: float, done: int, least: int) -> int:
        """How often to do what took `trial` seconds for `done` times."""
        return max(least, int(done * self.seconds / max(trial, 1e-9)))


@dataclass(frozen=True)
class Measurement:
    name: str
    what: str
    unit: str
    run: Callable[[Bench], float]
    more_is_better: bool = False
    required: float | None = None
    """How many times better than the standard library this project wants to be."""
    most: float | None = None
    """What the figure itself may be at most: then this project is measured alone."""
    long: bool = False
    """It takes some seconds: left out of a quick run, and done once."""
