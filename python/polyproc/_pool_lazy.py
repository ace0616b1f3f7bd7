"""``map`` over something that is drawn while it is mapped: a generator, a file, a cursor. An *own* module.

At most ``reach`` items have been drawn and are not done. It begins at twice the number of workers and grows with every part
that comes back, as far as the workers could do in some milliseconds at the pace so far: tiny tasks are drawn by thousands and
travel in bundles, long ones two for each worker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

__all__: list[str] = []

#: Into so many parts the reach is divided, so that new ones are drawn while others are done.
PARTS = 4

#: How much more is drawn than the lanes hold, where tasks are tiny.
AHEAD = 4


def map_lazily(
    desk: Any, submit: Callable[[list[Any], int, int], Any], iterable: Iterable[Any], least: int, chunk: int, most: int | None
) -> list[Any]:
    """The results, in order. ``submit(items, chunk, base)`` submits a part; ``chunk`` is 0 if the pool chooses.

    ``least`` items may be ahead from the beginning on, and ``most`` at most, if that is given.
    """
    iterator = iter(iterable)
    reach = least if most is None else most
    results: list[Any] = []
    parts: dict[int, tuple[Any, int]] = {}
    finished: dict[int, tuple[Any, int]] = {}
    base = ahead = collected = 0
    more, error = True, None
    while True:
        while more:
            size = min(chunk or max(1, reach // PARTS), reach)
            if ahead + size > reach:
                break
            items = list(islice(iterator, size))
            more = len(items) == size
            if items:
                parts[base] = submit(items, chunk, base), len(items)
                base += len(items)
                ahead += len(items)
        if not parts:
            break
        desk.wait_any([part for part, _ in parts.values()])
        for place in [place for place, (part, _) in parts.items() if part.ready()]:
            finished[place] = parts.pop(place)
            ahead -= finished[place][1]
        while collected in finished:
            part, count = finished.pop(collected)
            collected += count
            try:
                values = part.get()
            except Exception as reason:
                error = error or reason
            else:
                if error is None:
                    results += values
        if desk.is_over:
            more = False
        elif most is None and not chunk:
            # Where tasks are long, a lane holds one of them, and nothing more than `least` is needed.
            beyond = max(0, desk.appetite() * 2 - least) * AHEAD
            reach = min(reach * 2, least + beyond)
    if error is not None:
        raise error
    return results
