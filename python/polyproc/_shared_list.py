"""A manager's list in the session's memory. An *own* module.

How, and what happens when somebody dies, is told in :mod:`polyproc._shared_log`. The records are, with None for data that is
with the server (too large, or for pickle):

```text
 (data,)              appended
 (index, data)        now the item there
 (index, data, True)  inserted before that item
 (index, None, False) that item is deleted
```
"""

from __future__ import annotations

from typing import Any

from . import _polyproc
from ._shared_log import CHANGED, TRIES, Log, Logged, Replica, record_of

__all__ = ["ListLog", "ListMethods", "ListReplica"]

_encode, _decode = _polyproc.encode_plain, _polyproc.decode_plain


def _apply(contents: list[Any], items: list[Any]) -> None:
    """Applies records to a list of encoded items."""
    for content in contents:
        if len(content) == 1:
            items.append(content[0])
        elif len(content) == 2:
            items[content[0]] = content[1]
        elif content[2]:
            items.insert(content[0], content[1])
        else:
            del items[content[0]]


class ListReplica(Replica):
    """What a user of a list knows of it: the encoded items."""

    def __init__(self, memory: Any, lock: Any, alive: Any) -> None:
        super().__init__(memory, lock, alive)
        self.items: list[bytes | None] = []

    def _apply(self, anew: bool, word: int, contents: list[Any]) -> None:
        try:
            items = [] if anew else self.items
            _apply(contents, items)
            self.items, self.seen = items, word
        except BaseException:
            # Some may have been applied, none may be applied twice: all anew.
            self.items, self.seen = [], 0
            raise

    def replaced(self, seen: int, now: int, index: int, data: bytes) -> None:
        """Takes note of what this process has written itself, if nobody has done so yet."""
        if self._turn.acquire(False):
            try:
                if self.seen == seen:
                    self.items[index] = data
                    self.seen = now
            finally:
                self._turn.release()


class ListLog(Log):
    """The server's side of a list that has a log."""

    target: list[Any]
    reads = frozenset(
        "__contains__ __getitem__ __len__ __add__ __mul__ __rmul__ __reversed__ __repr__ __str__ #GETVALUE count index "
        "copy".split()
    )
    #: What changes nothing if it fails.
    _all_or_nothing = frozenset("__setitem__ __delitem__ append insert pop remove".split())

    def _absorb(self, contents: list[Any]) -> None:
        target = self.target
        for content in contents:
            if len(content) == 1:
                target.append(_decode(content[0]))
            elif len(content) == 2:
                target[content[0]] = _decode(content[1])
            else:  # users do not insert
                del target[content[0]]
        self.length = len(target)

    def _snapshot(self) -> bytes:
        return b"".join([self._appended(item) for item in self.target])

    def _write(self, name: str, args: Any, kwds: Any, reply: list[Any]) -> None:
        target, before = self.target, self.length
        if not reply or reply[0][0] != "#RETURN":
            if name not in self._all_or_nothing:
                self._begin_anew()
        elif name in ("append", "extend"):
            for item in target[before:]:
                self.append(self._appended(item))
        elif name in ("__setitem__", "__delitem__", "pop") and type(index := args[0] if args else -1) is int:
            index += before if index < 0 else 0
            if name == "__setitem__":
                self.append(record_of(index, _encode(target[index])) or record_of(index, None) or b"")
            else:
                self.append(record_of(index, None, False) or b"")
        elif name == "insert" and len(args) == 2 and type(args[0]) is int:
            index = args[0] if args[0] >= 0 else max(args[0] + before, 0)
            index = min(index, before)
            data = _encode(target[index])
            self.append(record_of(index, data, True) or record_of(index, None, True) or b"")
        else:
            self._begin_anew()

    @staticmethod
    def _appended(item: Any) -> bytes:
        return record_of(_encode(item)) or record_of(None) or b""


class ListMethods(Logged):
    """Methods of a list's proxy that need no server, where there is a replica."""

    _replica: ListReplica | None = None
    _replica_type = ListReplica

    def __len__(self) -> int:
        replica = self._current()
        return int(self._callmethod("__len__")) if replica is None else len(replica.items)

    def __getitem__(self, index: Any) -> Any:
        replica = self._replica
        if replica is None or replica.head[0] != replica.seen or not replica.alive():
            replica = self._current()
        if replica is not None:
            if type(index) is int:
                try:
                    data = replica.items[index]
                except IndexError:
                    raise IndexError("list index out of range") from None
                if data is not None:
                    return _decode(data)
            elif type(index) is slice:
                items = replica.items[index]
                if None not in items:
                    return [_decode(data) for data in items if data is not None]
        return self._callmethod("__getitem__", (index,))

    def __setitem__(self, index: Any, value: Any) -> None:
        data = _encode(value) if type(index) is int else None
        for _ in range(TRIES if data is not None else 0):
            replica = self._current()
            if replica is None:
                break
            seen, count = replica.seen, len(replica.items)
            place = index + count if index < 0 else index
            if not 0 <= place < count:
                raise IndexError("list assignment index out of range")
            answer = replica.journal.write((place, data), seen)
            if answer == CHANGED:
                continue
            if self._written(answer):
                replica.replaced(seen, answer, place, data)
                return
            break
        self._callmethod("__setitem__", (index, value))

    def __delitem__(self, index: Any) -> None:
        if type(index) is not int or self._taken(index, "list assignment index out of range") is None:
            self._callmethod("__delitem__", (index,))

    def append(self, *args: Any, **kwds: Any) -> None:
        replica = self._replica
        if replica is None:
            self._count_use()
        elif not replica.alive():
            self._lose_replica()
        elif len(args) == 1 and not kwds and self._written(replica.journal.push(args[0])):
            return
        self._callmethod("append", args, kwds)

    def pop(self, *args: Any, **kwds: Any) -> Any:
        index = args[0] if args else -1
        if len(args) <= 1 and not kwds and type(index) is int:
            data = self._taken(index, "pop index out of range", "pop from empty list")
            if data is not None:
                return _decode(data)
        return self._callmethod("pop", args, kwds)

    def _taken(self, index: int, out_of_range: str, empty: str | None = None) -> bytes | None:
        """Deletes an item that is not with the server, and gives its data; None for "ask the server"."""
        for _ in range(TRIES):
            replica = self._current()
            if replica is None:
                return None
            seen, items = replica.seen, replica.items
            count = len(items)
            place = index + count if index < 0 else index
            if not 0 <= place < count:
                raise IndexError(out_of_range if count or empty is None else empty)
            data: bytes | None = items[place]
            if data is None:
                return None
            answer = replica.journal.write((place, None, False), seen)
            if answer == CHANGED:
                continue
            return data if self._written(answer) else None
        return None
