"""``polyproc.install()``: from now on ``import multiprocessing`` means polyproc, here and in every child. An *own* module.

What stands as ``multiprocessing`` afterwards is a module object with exactly the public names of the standard package.
Its submodules are polyproc's, found when they are first imported, so that a second copy can never be loaded through
the package's path. The standard package moves to ``polyproc._stdlib``.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

from . import _borrowed
from ._borrowed import MOVED, STANDARD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from importlib.abc import Loader
    from importlib.util import module_from_spec
    from typing import Any
else:
    from importlib._bootstrap import module_from_spec  # the same, without all that importlib.util imports

    Loader = object

__all__ = ["install", "is_installed"]

#: Modules that polyproc shares with the standard library: they keep their place.
SHARED = frozenset({"process", "reduction", "resource_tracker", "util"})

#: What may be asked of the package as an attribute before anybody has imported it.
SUBMODULES = frozenset(
    "connection context dummy forkserver heap managers pool popen_fork popen_forkserver popen_spawn_posix process "
    "queues reduction resource_sharer resource_tracker shared_memory sharedctypes spawn synchronize util".split()
)


def install() -> None:
    """Puts polyproc in the place of ``multiprocessing``, in this process and in every process that it starts.

    Call it before the modules that use ``multiprocessing`` are imported: what they have already taken from there by
    ``from multiprocessing import ...`` stays what it was. A second call does nothing.

    >>> import polyproc
    >>> polyproc.install()
    >>> import multiprocessing
    >>> multiprocessing.Process is polyproc.Process
    True
    """
    if is_installed():
        return
    polyproc = import_module("polyproc")
    standard = _borrowed.package()
    for name, module in list(sys.modules.items()):
        head, _, tail = name.partition(".")
        if head != STANDARD:
            continue
        sys.modules[f"{MOVED}.{tail}" if tail else MOVED] = module
        if tail not in SHARED:
            # Found anew, as polyproc's, by the finder.
            del sys.modules[name]
    sys.modules.setdefault(MOVED, standard)
    sys.meta_path.insert(0, _Finder())
    sys.modules[STANDARD] = _facade(polyproc)


def is_installed() -> bool:
    """True once polyproc stands as ``multiprocessing`` in this process."""
    return MOVED in sys.modules


def _facade(polyproc: ModuleType) -> ModuleType:
    """The module object that stands as ``multiprocessing``: the standard names and nothing else."""
    module = ModuleType(STANDARD, polyproc.__doc__)
    spec = ModuleSpec(STANDARD, _Alias("polyproc"), origin=polyproc.__file__, is_package=True)
    spec.submodule_search_locations = list(polyproc.__path__)
    names: dict[str, Any] = {name: getattr(polyproc, name) for name in polyproc.__all__}
    names.update(
        __all__=list(polyproc.__all__),
        __file__=polyproc.__file__,
        __path__=list(polyproc.__path__),
        __package__=STANDARD,
        __spec__=spec,
        __loader__=spec.loader,
        __getattr__=_submodule,
        SUBDEBUG=polyproc.SUBDEBUG,
        SUBWARNING=polyproc.SUBWARNING,
    )
    for name in ("context", "process", "reduction"):  # what importing the standard package has imported
        names[name] = sys.modules[f"{STANDARD}.{name}"] = import_module(f"polyproc.{name}")
    vars(module).update(names)
    return module


def _submodule(name: str) -> ModuleType:
    """``multiprocessing.pool`` and its like, although nobody has imported it yet."""
    if name in SUBMODULES:
        return import_module(f"{STANDARD}.{name}")
    raise AttributeError(f"module {STANDARD!r} has no attribute {name!r}", name=name)


class _Finder:
    """Finds ``multiprocessing.X`` as ``polyproc.X``, and ``polyproc._stdlib.X`` in the standard library."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        head, _, tail = name.partition(".")
        if head == STANDARD and tail and _exists(f"polyproc.{tail}"):
            return ModuleSpec(name, _Alias(f"polyproc.{tail}"))
        if name.startswith(f"{MOVED}."):
            tail = name[len(MOVED) + 1 :]
            if tail in SHARED and f"{STANDARD}.{tail}" in sys.modules:
                return ModuleSpec(name, _Alias(f"{STANDARD}.{tail}"))
            spec = PathFinder.find_spec(f"{STANDARD}.{tail}", list(_borrowed.package().__path__))
            return spec and ModuleSpec(name, _Moved(spec))
        return None


def _exists(name: str) -> bool:
    if name in sys.modules:
        return True
    parent, _, _ = name.rpartition(".")
    return PathFinder.find_spec(name, list(import_module(parent).__path__)) is not None


class _Alias(Loader):
    """Loads a module by giving another name's module, which keeps its own spec."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.spec: ModuleSpec | None = None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(self.name)
        self.spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec


class _Moved(Loader):
    """Loads a standard submodule that nobody had imported before the move: under its own name, in the new place."""

    def __init__(self, spec: ModuleSpec) -> None:
        self.spec = spec

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return module_from_spec(self.spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec
        assert self.spec.loader is not None
        self.spec.loader.exec_module(module)
