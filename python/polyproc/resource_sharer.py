"""Hands descriptors to processes that ask for them later. A *re-rooted* module.

The standard library's source, over polyproc's listeners and clients.
"""

from typing import TYPE_CHECKING

from ._borrowed import reroot

if TYPE_CHECKING:
    from multiprocessing.resource_sharer import *
else:
    reroot(globals())
