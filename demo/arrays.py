"""Part 2: the same pictures as numpy arrays, through a Queue to another Process."""

from __future__ import annotations

import time
import zlib
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray
from PIL import Image

import terminal

ENOUGH = 64 << 20
AHEAD = 8  # so many arrays may lie in the queue: a sender that is faster than its receiver waits
SECONDS = 1.0
PATIENCE = 60.0


def checksums(inbox: Any, outbox: Any) -> None:
    """The other process, first round: says of every array what arrived."""
    for name, array in iter(inbox.get, None):
        outbox.put((name, array.shape, zlib.crc32(array.data)))
    outbox.put(None)


def receive(inbox: Any, outbox: Any) -> None:
    """The other process, measured round: takes each array and looks at one pixel of it."""
    count = total = bright = 0
    while (array := inbox.get()) is not None:
        count += 1
        total += array.nbytes
        bright += int(array[0, 0, 0]) > 127
    outbox.put((count, total, bright))


def load(pictures: list[Path]) -> list[tuple[str, NDArray[numpy.uint8]]]:
    arrays: list[tuple[str, NDArray[numpy.uint8]]] = []
    room = ENOUGH
    for path in pictures:
        try:
            with Image.open(path) as image:
                array = numpy.asarray(image.convert("RGB"))
        except (OSError, ValueError, SyntaxError):
            continue  # part 1 has named it
        if array.nbytes > room:
            break
        room -= array.nbytes
        arrays.append((path.stem, array))
    return arrays


def run(mp: Any, pictures: list[Path]) -> bool:
    arrays = load(pictures)
    size = sum(array.nbytes for _, array in arrays)
    terminal.say(f"{len(arrays)} arrays, {size / 1e6:.1f} MB in all, the largest {max(a.nbytes for _, a in arrays) / 1e6:.1f} MB")

    inbox, outbox = mp.Queue(AHEAD), mp.Queue()
    process = mp.Process(target=checksums, args=(inbox, outbox), name="checksums")
    process.start()
    for item in arrays:
        inbox.put(item)
    inbox.put(None)
    arrived = list(iter(lambda: outbox.get(timeout=PATIENCE), None))
    process.join()
    sent = [(name, array.shape, zlib.crc32(array.data)) for name, array in arrays]
    whole = arrived == sent
    verdict = terminal.green("as it was sent") if whole else terminal.red("not what was sent")
    terminal.row("what arrived", verdict, None, f"{len(arrived)} checksums compared")

    process = mp.Process(target=receive, args=(inbox, outbox), name="receive")
    process.start()
    count = 0
    start = time.perf_counter()
    while time.perf_counter() - start < SECONDS:
        for _, array in arrays:
            inbox.put(array)
            count += 1
    inbox.put(None)
    received, total, _ = outbox.get(timeout=PATIENCE)
    taken = time.perf_counter() - start
    process.join()
    terminal.row("through one Queue", f"{total / 1e6 / taken:8.0f} MB/s", None, f"{received} arrays in {taken:.2f} s")
    return whole and received == count and process.exitcode == 0
