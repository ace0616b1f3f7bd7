"""Shared memory with a name, for programs that share nothing else. The standard library's classes, subclassed.

A block belongs to the program that created it:

* whoever attaches to it is no owner. Their end, or the end of their resource tracker, destroys nothing (unless they ask
  for it with ``track=True``, as Python 3.13 has it);
* a block is backed by memory when it is created. A full ``/dev/shm`` is an ``OSError`` (``ENOSPC``) there, and never a
  ``SIGBUS`` later;
* a block whose creating program was killed is unlinked by that program's resource tracker, the standard library's. Where
  that was killed too, the next program to create a block does it: a block's name tells which tracker looks after it (pid
  and start time), and everybody who has it open holds a lock on it that the kernel gives back at their death.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
from typing import TYPE_CHECKING, Any

from ._borrowed import reroot

reroot(globals())

from . import resource_tracker, util  # noqa: E402

if TYPE_CHECKING:
    from multiprocessing.shared_memory import ShareableList as _ShareableList
    from multiprocessing.shared_memory import SharedMemory as _SharedMemory

    _SHM_NAME_PREFIX = "/psm_"
    _mmap: Any
    _posixshmem: Any
    _Items = _ShareableList[Any]
else:
    _SharedMemory = SharedMemory  # noqa: F821
    _Items = ShareableList  # noqa: F821
    _mmap = mmap.mmap  # noqa: F821

__all__ = ["ShareableList", "SharedMemory"]

_MODE = 0o600

#: Where Linux keeps the blocks.
DIRECTORY = "/dev/shm"

_OURS = re.compile(rf"{re.escape(_SHM_NAME_PREFIX[1:])}([0-9a-f]+)-([0-9a-f]+)-[0-9a-f]{{8}}")

#: Names that this process created and its tracker knows, until they are unlinked.
_created: set[str] = set()


def _make_filename() -> str:
    """A new name for a block, which tells who looks after it, where this process knows."""
    tracker = resource_tracker._resource_tracker._pid  # type: ignore[attr-defined]
    start = tracker and _start_of(tracker)
    owner = f"{tracker:x}-{start:x}-" if start else ""
    return f"{_SHM_NAME_PREFIX}{owner}{secrets.token_hex(4)}"


def _start_of(pid: int) -> int | None:
    """When a process was started, in the system's ticks; None if there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in b"ZX" else int(fields[19])


class SharedMemory(_SharedMemory):
    """A block of memory with a name: created here, or attached to by the name that another process tells.

    Args:
        name: The name; None for a new one.
        create: Create the block, instead of attaching to one that is there.
        size: Bytes, of a block that is created.
        track: Whether this program's resource tracker unlinks the block when the program ends. By default it does so
            for what the program created, and for nothing else.

    Raises:
        FileExistsError: a block of that name is there already.
        FileNotFoundError: there is none to attach to.
        OSError: ``ENOSPC``: there is not enough shared memory left.
        ValueError: the size is not positive, or the name is missing.

    Example:
        >>> from polyproc.shared_memory import SharedMemory
        >>> block = SharedMemory(create=True, size=100)
        >>> same = SharedMemory(name=block.name)
        >>> same.buf[:5] = b"hello"
        >>> bytes(block.buf[:5])
        b'hello'
        >>> same.close(); block.close(); block.unlink()
    """

    _track = True
    _name: str
    _fd: int
    _size: int

    def __init__(self, name: str | None = None, create: bool = False, size: int = 0, *, track: bool | None = None) -> None:
        if not size >= 0:
            raise ValueError("'size' must be a positive integer")
        if create:
            self._flags = os.O_CREAT | os.O_EXCL | os.O_RDWR
            if size == 0:
                raise ValueError("'size' must be a positive number different from zero")
        if name is None and not self._flags & os.O_EXCL:
            raise ValueError("'name' can only be None if create=True")
        self._track = create if track is None else track
        if create:
            _reclaim()
            if self._track:
                resource_tracker.ensure_running()
        self._open(name)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            pass  # nobody looks after it any more, and somebody is about to unlink it; what is open stays
        try:
            if create and size:
                _reserve(self._fd, size)
            self._size = os.fstat(self._fd).st_size
            self._mmap = _mmap(self._fd, self._size)
        except BaseException:
            os.close(self._fd)
            self._fd = -1
            if create:
                _posixshmem.shm_unlink(self._name)
            raise
        self._buf = memoryview(self._mmap)
        if self._track:
            resource_tracker.register(self._name, "shared_memory")
            if create:
                _remember(self._name)

    def _open(self, name: str | None) -> None:
        if name is not None:
            path = f"/{name}" if getattr(self, "_prepend_leading_slash", True) else name
            self._fd = _posixshmem.shm_open(path, self._flags, mode=getattr(self, "_mode", _MODE))
            self._name = path
            return
        while True:
            path = _make_filename()
            try:
                self._fd = _posixshmem.shm_open(path, self._flags, mode=getattr(self, "_mode", _MODE))
            except FileExistsError:
                continue
            self._name = path
            return

    def unlink(self) -> None:
        """Removes the name. The memory goes when the last process has closed the block.

        To be called once for a block, by whichever process.

        Raises:
            FileNotFoundError: somebody has done it already.
        """
        if not self._name:
            return
        _posixshmem.shm_unlink(self._name)
        _untrack(self._name)
        _created.discard(self._name)


class ShareableList(_Items):
    """A list of fixed length in a block: ints, floats, bools, strings, bytes and None.

    A string or bytes can later be replaced by one that is no longer than the room that the first one was given.

    Example:
        >>> from polyproc.shared_memory import ShareableList
        >>> numbers = ShareableList([1, 2.5, "three"])
        >>> numbers[0] += 1
        >>> list(ShareableList(name=numbers.shm.name))
        [2, 2.5, 'three']
        >>> numbers.shm.close(); numbers.shm.unlink()
    """


def _reserve(descriptor: int, size: int) -> None:
    """Gives a block its size and the memory for it."""
    os.ftruncate(descriptor, size)
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EINVAL):  # no tmpfs: then it has no such limit
            return
        raise OSError(
            error.errno, f"cannot create a shared memory block of {size} bytes: {os.strerror(error.errno or 0)} in {DIRECTORY}"
        ) from None


def _untrack(name: str) -> None:
    """Lets this program's tracker forget a name, which it may know or never have heard: of that it would complain."""
    resource_tracker.register(name, "shared_memory")
    resource_tracker.unregister(name, "shared_memory")


def _remember(name: str) -> None:
    if not _created:
        util.Finalize(None, _forget_unlinked, args=(os.getpid(),), exitpriority=-1)
    _created.add(name)


def _forget_unlinked(creator: int) -> None:
    """At the end of a program: what others have unlinked meanwhile has not leaked, so the tracker need not say so."""
    if os.getpid() != creator:
        return
    for name in _created:
        if not os.path.exists(DIRECTORY + name):
            _untrack(name)
    _created.clear()


_reclaimed_by = 0


def _reclaim() -> None:
    """Unlinks blocks whose trackers are dead and that nobody has open; once in a process."""
    global _reclaimed_by
    if _reclaimed_by == os.getpid():
        return
    _reclaimed_by = os.getpid()
    try:
        found = [match for name in os.listdir(DIRECTORY) if (match := _OURS.fullmatch(name))]
    except OSError:
        return
    for match in found:
        pid, start = int(match[1], 16), int(match[2], 16)
        if _start_of(pid) != start:
            _reclaim_block(match[0])


def _reclaim_block(name: str) -> None:
    try:
        descriptor = os.open(f"{DIRECTORY}/{name}", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return  # gone meanwhile, or another user's
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(f"{DIRECTORY}/{name}")
    except OSError:
        pass  # in use
    finally:
        os.close(descriptor)


def _forget_after_fork(_: Any) -> None:
    _created.clear()  # the parent's


util.register_after_fork(_created, _forget_after_fork)
