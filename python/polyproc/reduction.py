"""How objects become bytes: the registry of reducers, and descriptors over sockets. A *shared* module.

Libraries register their reducers with ``multiprocessing.reduction.ForkingPickler``; polyproc honours that registry by
sharing the module itself.
"""

from typing import TYPE_CHECKING

from ._borrowed import share

if TYPE_CHECKING:
    from multiprocessing.reduction import *
else:
    share(__name__)
