"""Starts and joins processes of a method, one after another, for some seconds: python bench/starting.py MODULE METHOD SECONDS

Prints the median of one start and join in ms. This file imports next to nothing, so that a child that imports it anew (spawn,
forkserver) shows what starting costs, not what importing costs.
"""

import sys


def nothing() -> None:
    pass


if __name__ == "__main__":
    import importlib
    import time
    from statistics import median

    module, method, seconds = sys.argv[1:]
    context = importlib.import_module(module).get_context(method)
    times = []
    end = time.perf_counter() + float(seconds)
    while len(times) < 11 or time.perf_counter() < end:
        start = time.perf_counter()
        process = context.Process(target=nothing)
        process.start()
        process.join()
        times.append(time.perf_counter() - start)
    print(median(times[1:]) * 1e3)  # the first starts the fork server as well
