"""Memory for :mod:`polyproc.sharedctypes`: small pieces of the session's memory. A *re-rooted* module.

The standard library's allocator, over arenas that lie in the engine's session memory. One thing differs: a piece that
another process may know (there was a fork since, or it was pickled) is never given out a second time. The standard
allocator gives the memory of a dropped ``Value`` to the next one while children still use it.
"""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING, Any

from ._borrowed import reroot
from ._polyproc import Memory

if TYPE_CHECKING:
    from multiprocessing.heap import BufferWrapper as _BufferWrapper
    from multiprocessing.heap import Heap as _Heap

    _Piece = tuple["Arena", int, int]
else:
    reroot(globals())
    _Heap, _BufferWrapper = Heap, BufferWrapper

__all__ = ["BufferWrapper"]

#: How many times this process has forked.
_forks = 0

#: In the place of the number of forks: another process was told of the piece.
_TOLD = -1


class Arena:
    """A block of the session's memory, of which a heap gives out pieces."""

    def __init__(self, size: int, shared: bytes | None = None) -> None:
        self.size = size
        self.buffer = Memory(size) if shared is None else Memory._attach(shared)
        #: For each piece that is in use, by its start: how many forks there had been when it was given out.
        self.given: dict[int, int] = {}
        #: Pieces were dropped here that must not be given out again.
        self.spent = False

    def __reduce__(self) -> Any:
        return Arena, (self.size, self.buffer._share(type(self).__name__))


class Heap(_Heap):
    """Gives out pieces of arenas, and takes them back."""

    def __init__(self, size: int = mmap.PAGESIZE) -> None:
        super().__init__(size)

    def malloc(self, size: int) -> Any:
        piece: _Piece = super().malloc(size)  # type: ignore[assignment]
        arena, start, _ = piece
        arena.given[start] = _forks
        return piece

    def _add_free_block(self, block: Any) -> None:
        arena, start, stop = block
        in_use: Any = self._allocated_blocks.get(arena, ())  # type: ignore[attr-defined]
        if (start, stop) in in_use and arena.given.pop(start, _TOLD) != _forks:
            arena.spent = True
            return
        super()._add_free_block(block)  # type: ignore[misc]

    def _discard_arena(self, arena: Arena) -> None:
        if not arena.spent:
            super()._discard_arena(arena)  # type: ignore[misc]
            return
        # Nothing in it is in use here. What other processes use of it they hold themselves.
        pieces: list[Any] = list(self._start_to_block.values())  # type: ignore[attr-defined]
        for piece in pieces:
            if piece[0] is arena:
                self._absorb(piece)  # type: ignore[attr-defined]
        del self._allocated_blocks[arena]  # type: ignore[attr-defined]
        self._arenas.remove(arena)  # type: ignore[attr-defined]


class BufferWrapper(_BufferWrapper):
    """A piece of shared memory; it goes back to the heap with its last reference in the process that made it."""

    _heap = Heap()

    def __getstate__(self) -> Any:
        (arena, start, _), _size = self._state  # type: ignore[attr-defined]
        if start in arena.given:
            arena.given[start] = _TOLD
        return self.__dict__


def _count_fork() -> None:
    global _forks
    _forks += 1


os.register_at_fork(before=_count_fork)
