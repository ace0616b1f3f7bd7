"""Memory for :mod:`polyproc.sharedctypes`, from files that have no name. A *re-rooted* module.

The standard library's allocator. Its arenas travel to other processes as descriptors.
"""

from typing import TYPE_CHECKING

from ._borrowed import reroot

if TYPE_CHECKING:
    from multiprocessing.heap import *
else:
    reroot(globals())
