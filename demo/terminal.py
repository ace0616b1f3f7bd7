"""What the demo prints: headings, aligned rows, bars, and a progress bar on standard error."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

_COLOURED = sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def paint(text: str, code: str) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if _COLOURED else text


def bold(text: str) -> str:
    return paint(text, "1")


def dim(text: str) -> str:
    return paint(text, "2")


def green(text: str) -> str:
    return paint(text, "32")


def red(text: str) -> str:
    return paint(text, "31")


def heading(number: int, title: str) -> None:
    print(f"\n{bold(f'{number}  {title}')}", flush=True)


def say(text: str = "") -> None:
    print(f"   {text}" if text else "", flush=True)


def padded(text: str, width: int) -> str:
    """Right-aligned to `width` columns as seen, colours not counted."""
    return " " * max(0, width - len(re.sub(r"\x1b\[[0-9;]*m", "", text))) + text


def row(label: str, figure: str, share: float | None = None, remark: str = "") -> None:
    """One measured line. `share` between 0 and 1 draws a bar of that length."""
    length = max(1, round(24 * share)) if share is not None else 0
    bar = f"  {paint('█' * length, '36')}{' ' * (24 - length)}" if length else ""
    print(f"   {label:<24}{padded(figure, 32)}{bar}  {dim(remark)}".rstrip(), flush=True)


def progress(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """The items as they come, with a bar on standard error; tqdm draws it where it is installed."""
    try:
        from tqdm import tqdm
    except ImportError:
        yield from _own_bar(items, total, what)
    else:
        yield from tqdm(
            items, total=total, desc=f"   {what}", unit=" images", leave=False, file=sys.stderr, dynamic_ncols=True
        )


def _own_bar(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    live = sys.stderr.isatty()
    width = max(10, min(40, shutil.get_terminal_size().columns - 40))
    done = 0
    for done, item in enumerate(items, 1):
        if live:
            full = round(width * done / max(1, total))
            print(f"\r   {what:<12} {'█' * full}{'░' * (width - full)} {done}/{total}", end="", file=sys.stderr, flush=True)
        yield item
    if live:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
