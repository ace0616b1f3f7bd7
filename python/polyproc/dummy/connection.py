"""Connections between threads, over queues. A *re-rooted* module."""

from typing import TYPE_CHECKING

from .._borrowed import reroot

if TYPE_CHECKING:
    from multiprocessing.dummy.connection import *
else:
    reroot(globals())
