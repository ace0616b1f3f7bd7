"""Measurements of pools with large arrays, as arguments and as results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy
from yardstick import MB, Bench, Measurement, now

#: What a worker returns: made once, so that the making is not measured.
_made: dict[int, Any] = {}


def first(array: Any) -> float:
    return float(array[0])


def made(size: int) -> Any:
    if size not in _made:
        _made[size] = numpy.ones(size // 8)
    return _made[size]


def per_second(bench: Bench, size: int, lot: Callable[[Any, int], None]) -> float:
    """MB per second of float64 arrays of `size` bytes in `lot(pool, count)`, after a lot that warms the memory."""
    with bench.mp.Pool(2) as pool:

        def timed(count: int) -> float:
            start = now()
            lot(pool, count)
            return now() - start

        few = max(2, 32 * MB // size)
        lot(pool, few)
        # So that what is kept stays within a quarter of a gigabyte, or one lot.
        count = min(bench.often_enough(timed(few), few, few), max(few, 256 * MB // size))
        times = bench.often_enough(timed(count), 1, 1)
        return times * count * size / MB / sum(timed(count) for _ in range(times))


def pool_arguments(bench: Bench, size: int) -> float:
    """Pool(2).map(first, arrays, chunksize=1)."""
    array = made(size)
    return per_second(bench, size, lambda pool, count: pool.map(first, [array] * count, chunksize=1))


def pool_results_dropped(bench: Bench, size: int) -> float:
    """Pool(2).imap_unordered(made, sizes), each result dropped as the next comes."""

    def lot(pool: Any, count: int) -> None:
        for array in pool.imap_unordered(made, [size] * count):
            assert array[0] == 1

    return per_second(bench, size, lot)


def pool_results_kept(bench: Bench, size: int) -> float:
    """Pool(2).map(made, sizes, chunksize=1)."""
    return per_second(bench, size, lambda pool, count: pool.map(made, [size] * count, chunksize=1))


ARRAYS = (
    Measurement("pool_argument_1mb", "Pool(2): arguments of 1 MB", "MB/s", lambda b: pool_arguments(b, MB), True, 15),
    Measurement("pool_argument_32mb", "Pool(2): arguments of 32 MB", "MB/s", lambda b: pool_arguments(b, 32 * MB), True, 15),
    Measurement("pool_argument_256mb", "Pool(2): arguments of 256 MB", "MB/s", lambda b: pool_arguments(b, 256 * MB), True, 8, long=True),
    Measurement("pool_dropped_1mb", "Pool(2): results of 1 MB", "MB/s", lambda b: pool_results_dropped(b, MB), True, 15),
    Measurement("pool_dropped_32mb", "Pool(2): results of 32 MB", "MB/s", lambda b: pool_results_dropped(b, 32 * MB), True, 15),
    Measurement("pool_dropped_256mb", "Pool(2): results of 256 MB", "MB/s", lambda b: pool_results_dropped(b, 256 * MB), True, 5, long=True),
    Measurement("pool_kept_1mb", "Pool(2): results of 1 MB, all kept", "MB/s", lambda b: pool_results_kept(b, MB), True, 6),
    Measurement("pool_kept_32mb", "Pool(2): results of 32 MB, all kept", "MB/s", lambda b: pool_results_kept(b, 32 * MB), True, 6),
)  # fmt: skip
