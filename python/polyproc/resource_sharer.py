"""Hands descriptors to processes that ask for them later. A *re-rooted* module.

The standard library's source, over polyproc's listeners and clients.
"""

from ._borrowed import reroot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.resource_sharer import *
else:
    reroot(globals())
