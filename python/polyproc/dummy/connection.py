"""Connections between threads, over queues. A *re-rooted* module."""

from .._borrowed import reroot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.dummy.connection import *
else:
    reroot(globals())
