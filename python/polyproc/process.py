"""Who runs here, who started it, and whom it has started. A *shared* module.

A process may have only one answer to ``current_process()``, so this is the standard library's ``multiprocessing.process``
itself: coverage tools that patch ``BaseProcess._bootstrap`` and libraries that ask ``multiprocessing.current_process()``
see polyproc's processes. The process classes that can be started are in :mod:`polyproc.context`.
"""

from ._borrowed import share

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing.process import *
else:
    share(__name__)
