"""How objects become bytes: the registry of reducers, and descriptors over sockets. A *shared* module.

Libraries register their reducers with ``multiprocessing.reduction.ForkingPickler``; polyproc honours that registry by
sharing the module itself.
"""

from ._borrowed import share

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.reduction import *
else:
    share(__name__)
