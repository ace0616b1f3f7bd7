"""The standard library's pool under polyproc's class, for subclasses that override what it is made of. An *own* module.

Joblib's pools do. They run on the standard library's implementation, over polyproc's processes and queues.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from . import util
from ._borrowed import standard

if TYPE_CHECKING:
    from multiprocessing import pool as _standard
else:
    _standard = standard("pool")

__all__: list[str] = []

#: What the standard pool is made of. A subclass that replaces any of it gets the standard pool.
_MACHINERY = frozenset(
    "_setup_queues _get_sentinels _get_worker_sentinels _join_exited_workers _repopulate_pool _repopulate_pool_static "
    "_maintain_pool _map_async _guarded_task_generation _wait_for_updates _handle_workers _handle_tasks _handle_results "
    "_get_tasks _help_stuff_finish _terminate_pool Process".split()
)


def give_way(cls: type, pool: type, on_standard: type) -> None:
    """Puts the standard library's methods under a subclass of ``pool`` that overrides what they are made of."""
    replaced = sorted(_MACHINERY.intersection(vars(cls)))
    if not replaced or issubclass(cls, on_standard):
        return
    util.debug("%s overrides %s: it runs on the standard library's pool", cls.__qualname__, ", ".join(replaced))
    cls.__bases__ = tuple(on_standard if base is pool else base for base in cls.__bases__)


def under(pool: type) -> type:
    """A subclass of ``pool`` with the methods of the standard library's again."""

    def __init__(
        self: Any,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: Any = None,
    ) -> None:
        if context is None:
            from .context import _default_context

            context = _default_context.get_context()
        _standard.Pool.__init__(self, processes, initializer, initargs, maxtasksperchild, context)

    own = ("__init__", "__module__", "__doc__", "__dict__", "__weakref__")
    members = {
        name: vars(_standard.Pool)[name] for name in vars(pool) if name in vars(_standard.Pool) and name not in own
    }
    members |= {"__init__": __init__, "__module__": pool.__module__, "__doc__": under.__doc__, "_cache": None}
    return type("_PoolOnStandard", (pool,), members)
