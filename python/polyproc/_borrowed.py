"""Where polyproc borrows from the standard library's multiprocessing, and how.

What the standard library does well off the hot path is not written again. A module of polyproc is one of three things,
and its docstring says which:

*shared*
    The very module object of the standard library, because it holds state of which a process may have only one:
    who the current process is, the finalizers, the logger, the registry of reducers. ``share(__name__)``.
*re-rooted*
    The interpreter's own source, executed a second time under polyproc's name, so that its relative imports lead to
    polyproc's modules and its classes are polyproc's. No code is copied. ``reroot(globals())``.
*own*
    Written here, where useful as subclasses of what ``standard("name")`` gives.

The standard package is found by ``importlib.machinery.PathFinder``, past every import hook, so that importing polyproc
never runs a hook that waits for ``import multiprocessing``. Once ``polyproc.install()`` has taken that name over, the
standard package is known as ``polyproc._stdlib``.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from types import CodeType, ModuleType

TYPE_CHECKING = False  # as typing has it for type checkers; importing typing would cost every child some milliseconds
if TYPE_CHECKING:
    from typing import Any

__all__: list[str] = []

STANDARD = "multiprocessing"
#: The name of the standard package once polyproc stands in its place.
MOVED = "polyproc._stdlib"


def package() -> ModuleType:
    """The standard library's ``multiprocessing`` package, imported if need be."""
    moved = sys.modules.get(MOVED)
    if moved is not None:
        return moved
    module = sys.modules.get(STANDARD)
    if module is None:
        # Not `import multiprocessing`: a hook on that name may be what has called us.
        from importlib._bootstrap import _load  # type: ignore[attr-defined]

        loaded: ModuleType = _load(_spec(STANDARD, None))
        return loaded
    return module


def standard(name: str) -> ModuleType:
    """A submodule of the standard package, such as ``standard("queues")``, whatever stands as ``multiprocessing``."""
    package()
    root = MOVED if MOVED in sys.modules else STANDARD
    return import_module(f"{root}.{name}")


def share(name: str) -> None:
    """Makes the module ``polyproc.X`` the standard library's X itself."""
    sys.modules[name] = standard(name.partition(".")[2])


def code_of(name: str) -> CodeType:
    """The compiled source of a standard submodule, from the interpreter's own cache."""
    path: list[str] = list(package().__path__)
    *parents, _ = name.split(".")
    for depth in range(len(parents)):
        path = list(_spec(".".join([STANDARD, *parents[: depth + 1]]), path).submodule_search_locations or ())
    spec = _spec(f"{STANDARD}.{name}", path)
    code = spec.loader.get_code(spec.name)  # type: ignore[union-attr]
    if code is None:
        raise ImportError(f"the interpreter carries no source of {spec.name}", name=spec.name)
    assert isinstance(code, CodeType)
    return code


def reroot(namespace: dict[str, Any]) -> None:
    """Executes the standard library's source of the module whose globals these are, under polyproc's name."""
    name: str = namespace["__name__"]
    exec(code_of(name.partition(".")[2]), namespace)


def _spec(name: str, path: list[str] | None) -> ModuleSpec:
    spec = PathFinder.find_spec(name, path)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"this Python carries no {name}", name=name)
    return spec
