"""Holds polyproc against the standard library's multiprocessing: every module, every public name, every signature.

Prints what is missing or takes other arguments, and exits with 1 if there is anything. Plain Python, so that it also runs in
the fresh environments of ``tools/wheel.py``: each interpreter is the measure of what it offers itself.
"""

from __future__ import annotations

import importlib
import inspect
import multiprocessing
import pkgutil
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import polyproc

#: For other systems than those that polyproc runs on.
WINDOWS = {"popen_spawn_win32"}

#: What takes other arguments on purpose: the insides, which programs do not call.
INSIDES = {
    "context.DefaultContext": "knows its default by itself",
    "forkserver.main": "the server's own protocol",
    "heap.Arena": "memory of the session has no descriptor of its own",
    "pool.IMapIterator": "made by the pool's engine, from a job",
    "pool.IMapIterator.__next__": "next(timeout) takes one",
    "pool.IMapUnorderedIterator": "made by the pool's engine, from a job",
    "pool.IMapUnorderedIterator.__next__": "next(timeout) takes one",
    "pool.worker": "what a worker runs: the pool's own protocol",
}


def modules() -> list[str]:
    """The names of all modules below multiprocessing, "" for the package itself."""
    prefix = "multiprocessing."
    found = pkgutil.walk_packages(multiprocessing.__path__, prefix)
    return ["", *(name for info in found if (name := info.name.removeprefix(prefix)) not in WINDOWS)]


def public(module: ModuleType) -> list[str]:
    """What `module` says that it offers, and the classes and functions without underscore that it defines."""
    defined = [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__ and callable(value)
    ]
    return sorted({*getattr(module, "__all__", ()), *defined})


def differences() -> Iterator[str]:
    """One line for each thing of the standard library's that polyproc does not have, or that takes other arguments."""
    for name in modules():
        standard = importlib.import_module(f"multiprocessing.{name}".rstrip("."))
        try:
            ours = importlib.import_module(f"polyproc.{name}".rstrip("."))
        except ImportError as error:
            yield f"{name}: no such module: {error}"
            continue
        if set(getattr(standard, "__all__", ())) != set(getattr(ours, "__all__", ())):
            yield f"{name}.__all__: {sorted(set(standard.__all__) ^ set(ours.__all__))}"
        for attribute in public(standard):
            where = f"{name}.{attribute}".lstrip(".")
            if not hasattr(ours, attribute):
                yield f"{where}: missing"
            else:
                yield from compared(where, getattr(standard, attribute), getattr(ours, attribute))


def compared(where: str, standard: Any, ours: Any) -> Iterator[str]:
    """The same for one name."""
    if standard is ours:
        return
    if inspect.isclass(standard) and not inspect.isclass(ours):
        yield f"{where}: is no class"
        return
    if callable(standard) and where not in INSIDES and (line := other_arguments(standard, ours)):
        yield f"{where}: {line}"
    if not inspect.isclass(standard):
        return
    for name, value in inspect.getmembers(standard):
        if name.startswith("_") and name not in ("__enter__", "__exit__", "__iter__", "__next__", "__len__", "__getitem__"):
            continue
        if not hasattr(ours, name):
            yield f"{where}.{name}: missing"
        elif callable(value) and f"{where}.{name}" not in INSIDES and (line := other_arguments(value, getattr(ours, name))):
            yield f"{where}.{name}: {line}"


def other_arguments(standard: Any, ours: Any) -> str:
    """Why a call that `standard` takes might not be one that `ours` takes; empty if there is no reason."""
    if not callable(ours):
        return "cannot be called"
    try:
        wanted, given = inspect.signature(standard), inspect.signature(ours)
    except (TypeError, ValueError):
        return ""  # one of the two says nothing of its arguments
    if {"args", "kwds"} == wanted.parameters.keys() - {"self"}:
        return ""  # made for a proxy, whatever the method takes
    takes = list(given.parameters.values())
    kinds = {each.kind for each in takes}
    by_syntax = getattr(standard, "__name__", "").startswith("__")  # never given an argument by name
    by_place = [each for each in takes if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    for place, each in enumerate(wanted.parameters.values()):
        match each.kind:
            case each.VAR_POSITIONAL | each.VAR_KEYWORD:
                if each.kind not in kinds:
                    return f"does not take {each}: {given}"
                continue
            case each.POSITIONAL_OR_KEYWORD:
                counterpart = by_place[place] if place < len(by_place) else None
                if counterpart is None and each.VAR_POSITIONAL not in kinds:
                    return f"does not take {each} in place {place}: {given}, not {wanted}"
            case _:
                counterpart = given.parameters.get(each.name)
        if each.kind is not each.POSITIONAL_ONLY and each.name != "self" and not by_syntax:
            named = given.parameters.get(each.name)
            if (named is None or named.kind is named.POSITIONAL_ONLY) and each.VAR_KEYWORD not in kinds:
                return f"does not take {each.name}=: {given}, not {wanted}"
            counterpart = counterpart or named
        if counterpart is not None and each.default is not each.empty and counterpart.default is each.empty:
            return f"has no default for {each.name}: {given}, not {wanted}"
    needed = [
        each.name
        for each in takes
        if each.default is each.empty and each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)
        if each.name not in wanted.parameters and each.name != "self"
    ]
    return f"needs {', '.join(needed)} as well: {given}, not {wanted}" if needed else ""


if __name__ == "__main__":
    found = list(differences())
    print("\n".join(found) or f"polyproc has all of multiprocessing in Python {sys.version.split()[0]}")
    sys.exit(bool(found))
