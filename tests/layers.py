"""The one direction of the layers, as a check that can fail.

    python tests/layers.py          # exit status 1 and one line for each violation

What it holds:

* a layer of the engine uses only what stands left of it: sys > shm > sync > channel > process > pool > manager
  (one file is excepted by name, the table that the sweep of the dead calls upwards through);
* the engine knows no Python and no serialisation: neither its manifest nor its sources name such a crate;
* system calls are made in `sys` and nowhere else in the engine;
* `unsafe` stays where raw memory is: the engine, the binding, the testkit and the few named files of the Rust face;
* every `unsafe` block and impl says why it is sound, in a `SAFETY` comment beside it.

Standard library only, so that it runs before anything is installed.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

LAYERS = ("sys", "shm", "sync", "channel", "process", "pool", "manager")

ENGINE = Path("crates/polyproc-engine")

# A crate that the engine must never need, by a word in its name.
FOREIGN_TO_THE_ENGINE = ("py", "pickle", "serde", "bincode", "postcard", "rmp", "ciborium", "rkyv", "tokio")

# Names that may not even be spoken in the engine's code (its comments may).
FOREIGN_WORDS = re.compile(r"\b(pyo3\w*|PyObject|pickle\w*|serde\w*)\b")

# Crates through which one reaches the kernel; the numbers of errors are only words.
SYSTEM_CALLS = re.compile(r"\b(libc|rustix|nix)\s*::(?!\s*E[A-Z0-9]+\b)")

# The one knot: the table of what each kind of object does when its holder dies. It names the layers above shm, so that
# shm, which finds the dead, need not. Nobody but shm calls it.
KNOT, KNOT_IS_FOR = "kinds", "shm"

# Where `unsafe` may stand, by path from the root.
UNSAFE_MAY_STAND = (
    "crates/polyproc-engine/",
    "crates/polyproc-python/",
    "crates/polyproc-testkit/",
    # The Rust face: data of the user's in shared memory, what may lie there, and functions that start in another process.
    "crates/polyproc/examples/c_library.rs",
    "crates/polyproc/src/bytes.rs",
    "crates/polyproc/src/guarded.rs",
    "crates/polyproc/src/lock.rs",
    "crates/polyproc/src/once.rs",
    "crates/polyproc/src/plain.rs",
    "crates/polyproc/src/reentrant.rs",
    "crates/polyproc/src/rwlock.rs",
    "crates/polyproc/src/shared.rs",
    "crates/polyproc/src/start.rs",
    "crates/polyproc/src/task.rs",
    "crates/polyproc/tests/",
    "crates/polyproc-macros/src/lib.rs",
)

# How far above an `unsafe` block its SAFETY comment may begin.
SAFETY_REACH = 10

# A reason is a SAFETY comment, or what tells clippy that there can be none, which takes a reason of its own.
REASON = re.compile(r"SAFETY|expect\(clippy::undocumented_unsafe_blocks, reason")


@dataclass(frozen=True)
class Violation:
    file: Path
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what}"


@dataclass
class Source:
    """One Rust file: its text, and the same text with comments and literals blanked out, line for line."""

    path: Path
    text: str
    code: str = field(init=False)

    def __post_init__(self) -> None:
        self.code = blank(self.text)

    def line_at(self, position: int) -> int:
        return self.code.count("\n", 0, position) + 1


_TOKEN = re.compile(
    r"""
      (?P<line>//[^\n]*)
    | (?P<block>/\*)
    | (?P<raw>\b(?:b|c)?r(?P<hashes>\#*)")
    | (?P<string>(?:\b(?:b|c))?")
    | (?P<char>(?:\bb)?'(?:\\(?:x[0-9a-fA-F]{2}|u\{[^}]*\}|.)|[^'\\\n])')
    """,
    re.VERBOSE,
)


def blank(text: str) -> str:
    """The text without comments, strings and characters, each replaced by spaces, so that positions stay."""
    parts: list[str] = []
    at = 0
    while found := _TOKEN.search(text, at):
        parts.append(text[at : found.start()])
        end = _end_of(text, found)
        parts.append(re.sub(r"[^\n]", " ", text[found.start() : end]))
        at = end
    parts.append(text[at:])
    return "".join(parts)


def _end_of(text: str, found: re.Match[str]) -> int:
    if found["block"]:
        depth, at = 1, found.end()
        while depth:
            step = re.compile(r"/\*|\*/").search(text, at)
            if step is None:
                return len(text)
            depth += 1 if step[0] == "/*" else -1
            at = step.end()
        return at
    if found["raw"]:
        end = text.find('"' + found["hashes"], found.end())
        return len(text) if end < 0 else end + 1 + len(found["hashes"])
    if found["string"]:
        closing = re.compile(r'(?:\\.|[^"\\])*"', re.DOTALL).match(text, found.end())
        return len(text) if closing is None else closing.end()
    return found.end()


def module_of(file: Path, source_root: Path) -> tuple[str, ...]:
    """The module path of a file: src/shm/slot.rs is shm::slot, src/shm/mod.rs is shm, src/lib.rs is the root."""
    parts = list(file.relative_to(source_root).with_suffix("").parts)
    if parts[-1] in ("mod", "lib", "main"):
        parts.pop()
    return tuple(parts)


_PATH = re.compile(r"(?<![\w:$])(?:\$?crate|polyproc_engine|self|super)\s*::\s*(?=[\w{*])")
_MODULE = re.compile(r"\bmod\s+(\w+)\s*\{")


def uses(source: Source, module: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], int]]:
    """Every path that starts at the crate, at `self` or at `super`, resolved to a path from the crate's root."""
    inline = _inline_modules(source.code)
    for found in _PATH.finditer(source.code):
        here = module + tuple(name for name, start, end in inline if start < found.start() < end)
        head = found[0].split("::")[0].strip().lstrip("$")
        base = {"self": here, "super": here[:-1]}.get(head, ())
        for path in _expand(source.code, found.end()):
            whole = base
            for name in path:
                whole = whole[:-1] if name == "super" else whole if name == "self" else (*whole, name)
            yield whole, source.line_at(found.start())


def _inline_modules(code: str) -> list[tuple[str, int, int]]:
    return [(found[1], found.end(), _closing(code, found.end())) for found in _MODULE.finditer(code)]


def _closing(code: str, at: int) -> int:
    depth = 1
    for found in re.compile(r"[{}]").finditer(code, at):
        depth += 1 if found[0] == "{" else -1
        if depth == 0:
            return found.start()
    return len(code)


def _expand(code: str, at: int) -> Iterator[tuple[str, ...]]:
    """The paths that `a::b`, `{a, b::{c, d}}` or `*` at this position stand for."""
    name = re.compile(r"\s*(\w+|\*)").match(code, at)
    if name is not None:
        onward = re.compile(r"\s*::\s*(?=[\w{*])").match(code, name.end())
        if onward is None:
            yield (name[1],)
        else:
            for rest in _expand(code, onward.end()):
                yield (name[1], *rest)
        return
    if code[at : at + 1] != "{":
        return
    depth, piece = 0, at + 1
    for found in re.compile(r"[{},]").finditer(code, at):
        if found[0] == "{":
            depth += 1
        elif found[0] == "}":
            depth -= 1
        if (found[0] == "," and depth == 1) or depth == 0:
            start = re.compile(r"\s*").match(code, piece)
            assert start is not None
            if start.end() < found.start():
                yield from _expand(code, start.end())
            piece = found.end()
        if depth == 0:
            return


def reexports(library: Source) -> dict[str, str]:
    """Which layer a name at the crate's root comes from: `pub use sync::{Lock, Event}` gives both to sync."""
    origin: dict[str, str] = {}
    for found in re.finditer(r"\bpub(?:\([^)]*\))?\s+use\s+(?:(?:crate|self)\s*::\s*)?(?=\w)", library.code):
        layer = re.compile(r"\w+").match(library.code, found.end())
        if layer is None or layer[0] not in LAYERS:
            continue
        for path in _expand(library.code, found.end()):
            origin[path[-1]] = path[0]
    for found in re.finditer(r"\bas\s+(\w+)", library.code):
        line = library.code[library.code.rfind("use", 0, found.start()) : found.start()]
        layer = re.search(r"use\s+(?:(?:crate|self)::)?(\w+)", line)
        if layer is not None and layer[1] in LAYERS:
            origin[found[1]] = layer[1]
    return origin


def check_layers(root: Path) -> Iterator[Violation]:
    source_root = root / ENGINE / "src"
    library = source_root / "lib.rs"
    origin = reexports(Source(library, library.read_text())) if library.exists() else {}
    for file in sorted(source_root.rglob("*.rs")):
        module = module_of(file, source_root)
        if module in ((), (KNOT,)):
            continue  # lib.rs is the table of contents and names every layer; so does the knot
        own = LAYERS.index(module[0]) if module[0] in LAYERS else -1
        source = Source(file, file.read_text())
        for path, line in uses(source, module):
            if not path:
                continue
            if path[0] == KNOT and module[0] != KNOT_IS_FOR:
                yield Violation(file.relative_to(root), line, f"{module[0]} uses {KNOT}, which is {KNOT_IS_FOR}'s alone")
                continue
            layer = path[0] if path[0] in LAYERS else origin.get(path[0])
            if layer is None or LAYERS.index(layer) <= own:
                continue
            who = f"layer {module[0]}" if own >= 0 else f"{file.name}, which is under every layer,"
            yield Violation(
                file.relative_to(root), line, f"{who} uses {layer} ({'::'.join(path)}), which stands to its right"
            )


def check_manifests(root: Path) -> Iterator[Violation]:
    manifest = root / ENGINE / "Cargo.toml"
    if not manifest.exists():
        return
    table = tomllib.loads(manifest.read_text())
    tables = [table, *table.get("target", {}).values()]
    for name in {name for part in tables for name in part.get("dependencies", {})}:
        if name.startswith(FOREIGN_TO_THE_ENGINE) or "serde" in name:
            yield Violation(manifest.relative_to(root), 1, f"the engine depends on {name}: that belongs to a face")
        if name.startswith("polyproc"):
            yield Violation(manifest.relative_to(root), 1, f"the engine depends on {name}, which stands above it")


def check_engine_words(root: Path) -> Iterator[Violation]:
    for file in sorted((root / ENGINE / "src").rglob("*.rs")):
        source = Source(file, file.read_text())
        for found in FOREIGN_WORDS.finditer(source.code):
            yield Violation(
                file.relative_to(root), source.line_at(found.start()), f"the engine speaks of {found[0]}: a face's word"
            )


def check_system_calls(root: Path) -> Iterator[Violation]:
    source_root = root / ENGINE / "src"
    for file in sorted(source_root.rglob("*.rs")):
        if module_of(file, source_root)[:1] in (("sys",), ("fault",)):
            continue  # a kill point kills
        source = Source(file, file.read_text())
        tests = [(start, end) for name, start, end in _inline_modules(source.code) if name == "tests"]
        for found in SYSTEM_CALLS.finditer(source.code):
            if any(start < found.start() < end for start, end in tests):
                continue  # a test may fork
            yield Violation(
                file.relative_to(root),
                source.line_at(found.start()),
                f"{found[1]} outside sys: give sys a function for it",
            )


_UNSAFE = re.compile(r"\bunsafe\b\s*(\{|impl\b|fn\b|extern\b|trait\b|\()?")


def check_unsafe(root: Path) -> Iterator[Violation]:
    for file in sorted((root / "crates").rglob("*.rs")):
        if "target" in file.relative_to(root).parts:
            continue
        source = Source(file, file.read_text())
        lines = source.text.splitlines()
        name = file.relative_to(root).as_posix()
        for found in _UNSAFE.finditer(source.code):
            line = source.line_at(found.start())
            if not name.startswith(UNSAFE_MAY_STAND):
                yield Violation(file.relative_to(root), line, "unsafe where it may not stand: see UNSAFE_MAY_STAND in tests/layers.py")
            beside = "\n".join(lines[max(0, line - 1 - SAFETY_REACH) : line + 1])
            if found[1] in ("{", "impl") and not REASON.search(beside):
                yield Violation(file.relative_to(root), line, f"unsafe {found[1]} without a SAFETY comment beside it")


CHECKS = (check_layers, check_manifests, check_engine_words, check_system_calls, check_unsafe)


def violations(root: Path) -> list[Violation]:
    return [violation for check in CHECKS for violation in check(root)]


def main() -> int:
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent
    if not (root / ENGINE / "src").is_dir():
        print(f"error: no {ENGINE}/src under {root}: give the repository's root", file=sys.stderr)
        return 2
    found = violations(root)
    for violation in found:
        print(violation, file=sys.stderr)
    if found:
        print(f"layers: {len(found)} violation(s)", file=sys.stderr)
        return 1
    print(f"layers: {' > '.join(LAYERS)} hold")
    return 0


if __name__ == "__main__":
    sys.exit(main())
