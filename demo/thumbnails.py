"""Part 1: a folder of pictures turned into thumbnails, one after the other and by a Pool."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

import terminal
from pictures import CELL, NoPictures, Thumbnail, thumbnail

# So many are enough to measure the one-after-the-other run, and to fill a sheet that one still looks at.
SERIAL_LIMIT = 200
SHEET_LIMIT = 120


def run(mp: Any, pictures: list[Path], origin: str, workers: int, out: Path) -> list[Path]:
    """Returns the pictures that could be read to their end: the other parts work on these."""
    terminal.say(f"{len(pictures)} photographs from {origin}")
    target = out / "thumbnails"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    jobs = [(path, target) for path in pictures]
    for path in pictures[:SERIAL_LIMIT]:
        path.read_bytes()  # so that neither run is the one that waits for the disk

    few = jobs[:SERIAL_LIMIT]
    start = time.perf_counter()
    list(terminal.progress(map(thumbnail, few), len(few), "serial"))
    serial = len(few) / (time.perf_counter() - start)

    start = time.perf_counter()
    with mp.Pool(workers) as pool:
        arriving = pool.imap_unordered(thumbnail, jobs)
        results = list(terminal.progress(arriving, len(jobs), f"Pool({workers})"))
        parallel = len(jobs) / (time.perf_counter() - start)
        pool.close()
        pool.join()

    best = max(serial, parallel)
    terminal.row("one after the other", f"{serial:8.1f} images/s", serial / best)
    terminal.row(f"Pool({workers})", f"{parallel:8.1f} images/s", parallel / best, f"{parallel / serial:.2f} times, start of the pool included")
    made = sorted((result for result in results if isinstance(result, Thumbnail)), key=lambda made: made.name.lower())
    for broken in (result for result in results if isinstance(result, str)):
        terminal.say(terminal.red(f"left out: {broken}"))
    if not made:
        raise NoPictures(f"not one picture from {origin} could be read to its end")
    sheet = out / "contact_sheet.png"
    size = contact_sheet(made[:SHEET_LIMIT], sheet)
    terminal.row("thumbnails", f"{len(made)} in {show(target)}")
    terminal.row("contact sheet", f"{show(sheet)}", None, f"{size[0]} x {size[1]} pixels")
    whole = {thumbnail.name for thumbnail in made}
    return [path for path in pictures if path.stem in whole]


def contact_sheet(thumbnails: Iterable[Thumbnail], file: Path) -> tuple[int, int]:
    """All cells on one page, each over its name; returns the page's size."""
    cells = list(thumbnails)
    columns = min(len(cells), 5) if len(cells) <= 30 else 8
    rows = -(-len(cells) // max(1, columns))
    gap, caption = 16, 24
    width = columns * (CELL[0] + gap) + gap
    height = rows * (CELL[1] + caption + gap) + gap
    page = Image.new("RGB", (width, height), (24, 26, 30))
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default(13)
    for index, cell in enumerate(cells):
        x = gap + (index % columns) * (CELL[0] + gap)
        y = gap + (index // columns) * (CELL[1] + caption + gap)
        page.paste(Image.frombytes("RGB", CELL, cell.rgb), (x, y))
        name = cell.name if len(cell.name) <= 30 else cell.name[:29] + "…"
        draw.text((x + 2, y + CELL[1] + 4), f"{name}", fill=(222, 222, 216), font=font)
        size = f"{cell.pixels / 1e6:.2f} Mpx"
        draw.text((x + CELL[0] - 2 - draw.textlength(size, font=font), y + CELL[1] + 4), size, fill=(130, 134, 142), font=font)
    page.save(file)
    return page.size


def show(path: Path) -> str:
    """The path as one would type it from here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
