"""Shared memory with a name, for programs that share nothing else. A *re-rooted* module.

The standard library's source; its names are looked after by the one :mod:`polyproc.resource_tracker`.
"""

from typing import TYPE_CHECKING

from ._borrowed import reroot

if TYPE_CHECKING:
    from multiprocessing.shared_memory import *
else:
    reroot(globals())
