"""What is installed: the extension module, its types, and nothing that belongs to the tests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import polyproc

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path(polyproc.__file__).parent


def test_the_extension_module_serves_every_python_from_3_11() -> None:
    modules = [path.name for path in PACKAGE.glob("_polyproc*.so")]
    assert modules == ["_polyproc.abi3.so"]


def test_no_kill_point_is_compiled_into_it() -> None:
    points = re.findall(r'^\s*"([a-z_]+\.[a-z_]+)",$', (ROOT / "crates/polyproc-engine/src/fault.rs").read_text(), re.M)
    assert len(points) > 20, "the list of kill points is not where it was"
    module = (PACKAGE / "_polyproc.abi3.so").read_bytes()
    assert [point for point in points if point.encode() in module] == []


@pytest.mark.parametrize("file", ["py.typed", "_polyproc.pyi"])
def test_types_are_shipped(file: str) -> None:
    assert (PACKAGE / file).is_file()


def test_the_version_is_that_of_the_crates() -> None:
    cargo = (ROOT / "Cargo.toml").read_text()
    assert f'version = "{polyproc.__version__}"' in cargo
