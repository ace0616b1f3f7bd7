"""The layers of the engine hold, and the check that says so can fail."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("layers", ROOT / "tests" / "layers.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["layers"] = module
    spec.loader.exec_module(module)
    return module


layers = load()


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    """A small engine in which everything is in order."""
    source = tmp_path / "crates/polyproc-engine/src"
    for layer in layers.LAYERS:
        (source / layer).mkdir(parents=True)
        (source / layer / "mod.rs").write_text("//! A layer.\n")
    (source / "lib.rs").write_text("pub mod sys;\npub mod shm;\npub use sync::{Lock, event::Event};\n")
    (source / "error.rs").write_text("pub enum Error {}\n")
    (source.parent / "Cargo.toml").write_text('[package]\nname = "polyproc-engine"\n[dependencies]\nlibc = "0.2"\n')
    return tmp_path


def plant(engine: Path, file: str, text: str) -> list[str]:
    path = engine / "crates/polyproc-engine" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return [str(violation) for violation in layers.violations(engine)]


def test_the_layers_of_this_repository_hold() -> None:
    found = layers.violations(ROOT)
    assert not found, "\n" + "\n".join(map(str, found))


def test_an_engine_in_order_passes(engine: Path) -> None:
    assert plant(engine, "src/sync/lock.rs", "use crate::{shm::{slot, Session}, sys::futex, error::Error};\n") == []


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("src/shm/slot.rs", "use crate::sync::Lock;\n"),
        ("src/shm/slot.rs", "use crate::{Error, sys::{clock, futex}, channel::Ring};\n"),
        ("src/shm/slot.rs", "fn f() { crate::process::spawn(); }\n"),
        ("src/shm/slot.rs", "use super::super::pool::Ledger;\n"),
        ("src/shm/deep/er.rs", "use super::super::super::manager;\n"),
        ("src/shm/slot.rs", "mod inner { use super::super::super::sync::Lock; }\n"),
        ("src/shm/mod.rs", "use super::sync;\n"),
        ("src/sys/mod.rs", "use crate::shm;\n"),
        ("src/shm/slot.rs", "use crate::Lock;\n"),
        ("src/shm/slot.rs", "use crate::Event;\n"),
        ("src/channel/ring.rs", "use polyproc_engine::process::Child;\n"),
        ("src/error.rs", "use crate::sync::Lock;\n"),
    ],
)
def test_a_use_to_the_right_is_found(engine: Path, file: str, text: str) -> None:
    found = plant(engine, file, text)
    assert len(found) == 1 and "stands to its right" in found[0], found


@pytest.mark.parametrize(
    "text",
    [
        "// crate::sync::Lock is above us\n",
        "/* crate::sync /* nested */ crate::pool */\n",
        'const WORDS: &str = "crate::sync \\" crate::pool";\n',
        'const WORDS: &str = r#"crate::sync " crate::pool"#;\n',
        "mod tests { use super::*; use super::super::session; use crate::shm::slot; }\n",
        "fn f<'a>(x: &'a u8) -> char { '\"' } use crate::sys;\n",
    ],
)
def test_words_in_comments_and_strings_are_not_uses(engine: Path, text: str) -> None:
    assert plant(engine, "src/shm/slot.rs", text) == []


def test_a_literal_does_not_hide_what_follows(engine: Path) -> None:
    text = "const QUOTE: char = '\"'; use crate::sync::Lock; const END: &str = \"\\\"\";\n"
    assert len(plant(engine, "src/shm/slot.rs", text)) == 1


def test_the_knot_may_name_every_layer_and_only_shm_may_call_it(engine: Path) -> None:
    assert plant(engine, "src/kinds.rs", "use crate::{channel, sync, shm};\n") == []
    assert plant(engine, "src/shm/sweep.rs", "fn f() { crate::kinds::on_death(); }\n") == []
    found = plant(engine, "src/channel/ring.rs", "use crate::kinds;\n")
    assert len(found) == 1 and "alone" in found[0], found


@pytest.mark.parametrize("name", ["pyo3", "serde", "serde_json", "python3-sys", "bincode", "polyproc"])
def test_a_face_in_the_engines_manifest_is_found(engine: Path, name: str) -> None:
    found = plant(engine, "Cargo.toml", f'[package]\nname = "polyproc-engine"\n[dependencies]\n{name} = "1"\n')
    assert len(found) == 1 and name in found[0], found


def test_python_in_the_engines_code_is_found(engine: Path) -> None:
    found = plant(engine, "src/channel/ring.rs", "fn f(x: pyo3::PyAny) {}\n")
    assert len(found) == 1 and "a face's word" in found[0], found


def test_a_system_call_outside_sys_is_found(engine: Path) -> None:
    assert plant(engine, "src/sys/futex.rs", "use libc::c_int;\n") == []
    assert plant(engine, "src/channel/ring.rs", "const FULL: i32 = libc::ENOSPC;\n") == []
    found = plant(engine, "src/channel/ring.rs", "fn f() -> i32 { libc::getpid() }\n")
    assert len(found) == 1 and "outside sys" in found[0], found


@pytest.mark.parametrize("text", ["fn f() { unsafe { g() } }\n", "unsafe impl Send for X {}\n"])
def test_unsafe_needs_a_reason(engine: Path, text: str) -> None:
    found = plant(engine, "src/shm/slot.rs", text)
    assert len(found) == 1 and "SAFETY" in found[0], found
    assert plant(engine, "src/shm/slot.rs", f"// SAFETY: g has no preconditions.\n{text}") == []


def test_unsafe_outside_engine_and_binding_is_found(engine: Path) -> None:
    found = plant(engine, "../polyproc/src/queue.rs", "// SAFETY: none needed.\nfn f() { unsafe { g() } }\n")
    assert len(found) == 1 and "may not stand" in found[0], found


def test_the_script_fails_on_a_violation(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["layers.py", str(engine)])
    assert layers.main() == 0
    plant(engine, "src/shm/slot.rs", "use crate::sync::Lock;\n")
    assert layers.main() == 1
