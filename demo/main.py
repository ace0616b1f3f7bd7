"""polyproc on real pictures: a Pool, a Queue, and a death that stops nobody.

    make demo                   # the photographs that scikit-image ships
    make demo IMAGES=DIR        # your own
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

try:
    import arrays
    import killed
    import pictures
    import terminal
    import thumbnails
except ModuleNotFoundError as error:
    sys.exit(f"error: the demo needs {error.name}: run it with `make demo`, which installs what it needs")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=Path, metavar="DIR", help="a folder of pictures (default: scikit-image's)")
    parser.add_argument("--out", type=Path, default=Path("build/demo"), metavar="DIR", help="where results are written")
    parser.add_argument("--workers", type=int, default=max(2, len(os.sched_getaffinity(0))), metavar="N")
    parser.add_argument("--impl", default="polyproc", metavar="MODULE", help="polyproc, or multiprocessing beside it")
    given = parser.parse_args()
    if given.workers < 1:
        parser.error(f"--workers is {given.workers}: at least 1 is needed")
    return given


def main() -> int:
    given = arguments()
    try:
        mp: Any = importlib.import_module(given.impl)
    except ModuleNotFoundError as error:
        if error.name != given.impl:
            raise
        print(f"error: there is no module {given.impl} here: run `make build` first", file=sys.stderr)
        return 2
    try:
        found, origin = pictures.find(given.images)
    except pictures.NoPictures as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        given.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(f"error: results cannot be written to '{given.out}': {error.strerror}", file=sys.stderr)
        return 2
    out = given.out.resolve()

    started = time.perf_counter()
    version = getattr(mp, "__version__", "")
    print(terminal.bold(f"{given.impl} {version}".strip()), end="")
    print(f" on Python {platform.python_version()}, {len(os.sched_getaffinity(0))} CPUs, start method {mp.get_start_method()}")
    terminal.heading(1, "Thumbnails by a Pool")
    try:
        found = thumbnails.run(mp, found, origin, given.workers, out)
    except pictures.NoPictures as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    terminal.heading(2, "The same pictures as arrays, through a Queue to another Process")
    whole = arrays.run(mp, found)
    terminal.heading(3, "A process is killed while it holds a lock")
    survived = killed.run(mp, found, given.workers)
    sheet = thumbnails.show(out / "contact_sheet.png")
    taken = time.perf_counter() - started
    if not (whole and survived):
        print(f"\n{terminal.red('not everything went as it should')}: see above ({taken:.1f} s)")
        return 1
    print(f"\n{terminal.green('done')} in {taken:.1f} s: look at {terminal.bold(sheet)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
