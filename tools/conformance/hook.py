"""Puts polyproc in place at the first ``import multiprocessing``. Loaded by a .pth file, which -E and -I leave in force.

It waits for that import because CPython's tests hold that an interpreter starts without ``multiprocessing``.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType


class FirstImport:
    """A finder and loader that serves the name once, and then steps aside."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name == "multiprocessing" else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        sys.meta_path.remove(self)  # type: ignore[arg-type]
        import polyproc

        polyproc.install()
        module = sys.modules[spec.name]
        self.spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec  # importlib has put its own there


sys.meta_path.insert(0, FirstImport())  # type: ignore[arg-type]
