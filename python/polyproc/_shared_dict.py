"""A manager's dict, Namespace and Value in the session's memory. An *own* module.

How, and what happens when somebody dies, is told in :mod:`polyproc._shared_log`. The records are

```text
 (key, encoded value)   now the value of that key
 (key, None)            the key is deleted
 (key,)                 its value is with the server: too large, or for pickle
 ()                     there are keys that the plain codec does not write: ask the server before "no such key"
```

A Namespace is the dict of its attributes, a Value that of its own: it is under ``_value``.
"""

from __future__ import annotations

from typing import Any

from . import _polyproc
from ._shared_log import CHANGED, TRIES, Log, Logged, Replica, record_of

__all__ = ["DictLog", "DictMethods", "DictReplica", "NamespaceMethods", "ValueLog", "ValueMethods"]

_encode, _decode = _polyproc.encode_plain, _polyproc.decode_plain

_MISSING = object()

#: Where a Value has its value.
_VALUE = "_value"


class DictReplica(Replica):
    """What a user of a dict knows of it."""

    def __init__(self, memory: Any, lock: Any, alive: Any) -> None:
        super().__init__(memory, lock, alive)
        self.items: dict[Any, bytes | None] = {}
        self.exotic = False

    def _apply(self, anew: bool, word: int, contents: list[Any]) -> None:
        items = {} if anew else self.items
        exotic = self.exotic and not anew
        for content in contents:
            if len(content) == 2:
                key, data = content
                if data is None:
                    items.pop(key, None)
                else:
                    items[key] = data
            elif content:
                items[content[0]] = None
            else:
                exotic = True
        self.items, self.exotic, self.seen = items, exotic, word


class DictLog(Log):
    """The server's side of a dict that has a log."""

    target: dict[Any, Any]
    reads = frozenset(
        "__contains__ __getitem__ __getattribute__ __iter__ __len__ __or__ __ror__ __reversed__ __repr__ __str__ #GETVALUE "
        "copy get items keys values".split()
    )
    #: What changes the key that is its first argument, or nothing at all if it fails.
    _of_key = frozenset("__setitem__ setdefault __delitem__ pop __setattr__ __delattr__".split())

    def _absorb(self, contents: list[Any]) -> None:
        target = self.target
        latest: dict[Any, bytes] = {}
        for key, data in (content for content in contents if len(content) == 2):
            if data is None:
                latest.pop(key, None)
                target.pop(key, None)
            else:
                latest[key] = data
                target.setdefault(key, None)  # its place among the keys
        for key, data in latest.items():
            target[key] = _decode(data)

    def _snapshot(self) -> bytes:
        return b"".join([self._record_of(key) for key in self.target])

    def _write(self, name: str, args: Any, kwds: Any, reply: list[Any]) -> None:
        if not reply or reply[0][0] != "#RETURN":
            if name not in ("__delitem__", "__delattr__", "pop", "popitem"):  # these change all or nothing
                self._begin_anew()
        elif name in self._of_key:
            self._write_key(args[0] if args else kwds["key"])
        elif name == "popitem":
            self._write_key(reply[0][1][0])
        elif name == "update":
            for key in dict(*args, **kwds):
                self._write_key(key)
        else:
            self._begin_anew()

    def _write_key(self, key: Any) -> None:
        self.append(self._record_of(key))

    def _record_of(self, key: Any) -> bytes:
        if key not in self.target:
            record = record_of(key, None)
        elif (data := _encode(self.target[key])) is None or (record := record_of(key, data)) is None:
            record = record_of(key)
        return record or record_of() or b""


class ValueLog(DictLog):
    """The server's side of a Value that has a log."""

    reads = frozenset({"get", "__repr__", "__str__", "#GETVALUE"})

    def _write(self, name: str, args: Any, kwds: Any, reply: list[Any]) -> None:
        self._write_key(_VALUE)


class DictMethods(Logged):
    """Methods of a dict's proxy that need no server, where there is a replica."""

    _replica: DictReplica | None = None
    _replica_type = DictReplica

    def _lookup(self, key: Any) -> Any:
        """The encoded value of a key, None for "ask the server", _MISSING for no such key."""
        replica = self._current()
        if replica is None:
            return None
        data = replica.items.get(key, _MISSING)
        if data is _MISSING and replica.exotic:
            return None
        return data

    def __getitem__(self, key: Any) -> Any:
        replica = self._replica
        if replica is not None and replica.head[0] == replica.seen and replica.alive():
            data = replica.items.get(key)
            if data is not None:
                return _decode(data)
        found = self._lookup(key)
        if found is None:
            return self._callmethod("__getitem__", (key,))
        if found is _MISSING:
            raise KeyError(key)
        return _decode(found)

    def get(self, *args: Any, **kwds: Any) -> Any:
        if kwds or not 1 <= len(args) <= 2:
            return self._callmethod("get", args, kwds)
        found = self._lookup(args[0])
        if found is None:
            return self._callmethod("get", args)
        if found is _MISSING:
            return args[1] if len(args) == 2 else None
        return _decode(found)

    def __contains__(self, key: Any) -> bool:
        found = self._lookup(key)
        if found is None:
            return bool(self._callmethod("__contains__", (key,)))
        return found is not _MISSING

    def __setitem__(self, key: Any, value: Any) -> None:
        replica = self._replica
        if replica is None:
            self._count_use()
        elif not replica.alive():
            self._lose_replica()
        elif self._written(replica.journal.put(key, value)):
            return
        self._callmethod("__setitem__", (key, value))

    def __delitem__(self, key: Any) -> None:
        for _ in range(TRIES):
            replica = self._current()
            if replica is None:
                break
            seen = replica.seen
            if key not in replica.items:
                break
            answer = replica.journal.write((key, None), seen)
            if answer == CHANGED:
                continue
            if self._written(answer):
                return
            break
        self._callmethod("__delitem__", (key,))


class NamespaceMethods(Logged):
    """Attributes of a Namespace's proxy that need no server, where there is a replica."""

    _replica: DictReplica | None = None
    _replica_type = DictReplica

    def __getattr__(self, key: str) -> Any:
        if key[0] == "_":
            return object.__getattribute__(self, key)
        replica = self._replica
        if replica is None or replica.head[0] != replica.seen or not replica.alive():
            replica = self._current()
        data = None if replica is None else replica.items.get(key)
        # What is no attribute of its own may still be one of its class: the server knows.
        return self._callmethod("__getattribute__", (key,)) if data is None else _decode(data)

    def __setattr__(self, key: str, value: Any) -> None:
        if key[0] == "_":
            object.__setattr__(self, key, value)
            return
        replica = self._replica
        if replica is None:
            self._count_use()
        elif not replica.alive():
            self._lose_replica()
        elif type(key) is str and self._written(replica.journal.put(key, value)):
            return
        self._callmethod("__setattr__", (key, value))


class ValueMethods(Logged):
    """Methods of a Value's proxy that need no server, where there is a replica."""

    _replica: DictReplica | None = None
    _replica_type = DictReplica

    def get(self) -> Any:
        replica = self._replica
        if replica is None or replica.head[0] != replica.seen or not replica.alive():
            replica = self._current()
        data = None if replica is None else replica.items.get(_VALUE)
        return self._callmethod("get") if data is None else _decode(data)

    def set(self, value: Any) -> None:
        replica = self._replica
        if replica is None:
            self._count_use()
        elif not replica.alive():
            self._lose_replica()
        elif self._written(replica.journal.put(_VALUE, value)):
            return
        self._callmethod("set", (value,))

    value = property(get, set)
