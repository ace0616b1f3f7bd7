"""The demo and the benchmarks, as a person runs them: with good input, and with bad."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=cwd, check=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures, a broken one, and something else."""
    image = pytest.importorskip("PIL.Image")
    for number in range(3):
        image.linear_gradient("L").rotate(90 * number).resize((400, 300)).save(tmp_path / f"picture {number}.png")
    whole = (tmp_path / "picture 0.png").read_bytes()
    (tmp_path / "broken.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "notes.txt").write_text("not a picture")
    return tmp_path


def test_the_demo_does_its_work_on_a_folder(folder: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    done = run(ROOT / "demo/main.py", "--images", folder, "--out", folder / "out", "--workers", 2)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 of 3 pictures done" in done.stdout
    assert "left out: broken.png" in done.stdout
    assert "HolderDiedWarning" in done.stderr
    victim = done.stdout.partition("the victim")[2].split()[1]
    assert victim in done.stderr, "the warning names the process that died"
    with image.open(folder / "out/contact_sheet.png") as sheet:
        assert sheet.width > 3 * 240
        assert len(sheet.convert("L").histogram()) == 256


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    done = run(ROOT / "demo/main.py", "--images", tmp_path / "nowhere")
    assert done.returncode == 2
    assert done.stderr.startswith("error: there is no folder") and "nowhere" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_folder_without_pictures_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a picture")
    done = run(ROOT / "demo/main.py", "--images", tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: no pictures in") and done.stderr.count("\n") == 1


def test_a_file_that_only_says_it_is_a_picture_is_none(tmp_path: Path) -> None:
    (tmp_path / "false.png").write_text("not a picture")
    done = run(ROOT / "demo/main.py", "--images", tmp_path)
    assert done.returncode == 2
    assert "1 by name, none that opens" in done.stderr


def test_a_benchmark_compares_and_writes_its_figures(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    done = run(ROOT / "bench/run.py", "--match", "array_item", "--pairs", 2, "--seconds", 0.05, "--json", file)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(file.read_text())["results"]["array_item"]
    assert {name: len(figures) for name, figures in result["figures"].items()} == {"polyproc": 2, "multiprocessing": 2}


def test_a_benchmark_that_is_not_there_is_named() -> None:
    done = run(ROOT / "bench/run.py", "--match", "no_such_thing")
    assert done.returncode == 2
    assert "no_such_thing" in done.stderr and "queue_ints" in done.stdout
