"""Which pictures the demo works on, and what a worker does with one."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from PIL import Image, ImageFilter, ImageOps

SUFFIXES = {".png", ".jpg", ".jpeg", ".gif", ".tif", ".tiff", ".bmp", ".webp"}

# In scikit-image's wheel beside the photographs: drawings, test patterns and a few pixels for tests of file formats.
DRAWN = {
    "chessboard_GRAY", "chessboard_RGB", "color", "horse", "logo", "multipage", "multipage_rgb",
    "no_time_for_that_tiny", "phantom",
}  # fmt: skip

CELL = (240, 180)
LARGE = 480


class NoPictures(Exception):
    """The folder is not there, or nothing in it can be shown. The message says which."""


@dataclass(frozen=True)
class Thumbnail:
    name: str
    pixels: int
    """of the picture that it was made from"""
    rgb: bytes
    """CELL[0] * CELL[1] pixels"""


def find(folder: Path | None) -> tuple[list[Path], str]:
    """The pictures in `folder`, or the photographs that scikit-image ships, and where they are from, in words."""
    if folder is None:
        package = find_spec("skimage")
        if package is None or package.origin is None:
            raise NoPictures("scikit-image is not installed here: run `make demo`, or give a folder of your own")
        shipped = Path(package.origin).parent / "data"
        return [path for path in listed(shipped) if path.stem not in DRAWN], "scikit-image's wheel"
    if not folder.exists():
        raise NoPictures(f"there is no folder '{folder}': say make demo IMAGES=DIR with one that is there")
    if not folder.is_dir():
        raise NoPictures(f"'{folder}' is a file: say make demo IMAGES=DIR with the folder that it is in")
    return listed(folder), str(folder)


def listed(folder: Path) -> list[Path]:
    try:
        inside = sorted(folder.iterdir())
    except OSError as error:
        raise NoPictures(f"'{folder}' cannot be read: {error.strerror}") from error
    named = [path for path in inside if path.suffix.lower() in SUFFIXES and path.is_file()]
    pictures = [path for path in named if is_picture(path)]
    if not pictures:
        seen = f"{len(named)} by name, none that opens" if named else "no file of a known kind"
        raise NoPictures(f"no pictures in '{folder}' ({seen}; known: {' '.join(sorted(SUFFIXES))})")
    return pictures


def is_picture(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            return image.width >= 16 and image.height >= 16
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False


def thumbnail(job: tuple[Path, Path]) -> Thumbnail | str:
    """Makes one thumbnail: a JPEG file beside the others, and the cell for the contact sheet.

    A picture that breaks off in the middle is no reason to end the run: its name and what is wrong come back.
    """
    source, target = job
    try:
        with Image.open(source) as image:
            image.load()
            pixels = image.width * image.height
            picture = ImageOps.exif_transpose(image).convert("RGB")
        large = picture.copy()
        large.thumbnail((LARGE, LARGE), Image.Resampling.LANCZOS)
        large = ImageOps.autocontrast(large.filter(ImageFilter.UnsharpMask(radius=2, percent=120)), cutoff=1)
        large.save(target / f"{source.stem}.jpg", quality=90, optimize=True)
        cell = ImageOps.fit(picture, CELL, Image.Resampling.LANCZOS).filter(ImageFilter.UnsharpMask(radius=1, percent=80))
        return Thumbnail(source.stem, pixels, cell.tobytes())
    except (OSError, ValueError, SyntaxError) as error:
        return f"{source.name}: {error}"
