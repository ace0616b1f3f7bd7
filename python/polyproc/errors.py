"""What polyproc reports that the standard library has no name for. An *own* module."""

from __future__ import annotations

__all__ = ["HolderDiedWarning"]


class HolderDiedWarning(RuntimeWarning):
    """A process died while it held a lock, and the lock is now yours.

    What the lock guards may be half done. The message names the pid of the dead. To get an exception instead, in which case
    ``acquire()`` gives the lock back before it raises:

    >>> import warnings
    >>> warnings.simplefilter("error", HolderDiedWarning)
    """
