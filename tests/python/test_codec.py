"""The plain codec: what it writes comes back the same, what it cannot keep the same it refuses, and no bytes break it."""

from __future__ import annotations

import enum
import math
import random
import struct
from collections import OrderedDict, namedtuple
from typing import Any

import pytest

from polyproc._polyproc import decode_plain, encode_plain


def round_trip(value: object) -> Any:
    data = encode_plain(value)
    assert data is not None, f"{value!r:.60} was refused"
    return decode_plain(data)


def same(left: object, right: object) -> bool:
    """Equal, of the same types all the way down, and NaN and -0.0 kept."""
    if type(left) is not type(right):
        return False
    if isinstance(left, float) and isinstance(right, float):
        return struct.pack("d", left) == struct.pack("d", right)
    if isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return same(list(left.items()), list(right.items()))
    return left == right


SCALARS: list[object] = [
    None, True, False,
    0, 1, 127, 128, -1, -128, -129, 2**31, -(2**63), 2**63 - 1,
    0.0, -0.0, 1.5, math.inf, -math.inf, math.nan, 5e-324,
    "", "a", "é", "漢字", "\0", "\U0001f600", "x" * 255, "x" * 256, "x" * 4096,
    b"", b"\0", b"x" * 255, b"x" * 256, b"x" * 4096,
]  # fmt: skip


@pytest.mark.parametrize("value", SCALARS, ids=lambda value: repr(value)[:20])
def test_a_scalar_comes_back_the_same(value: object) -> None:
    assert same(round_trip(value), value)


@pytest.mark.parametrize(
    "value",
    [
        (), [], {}, (1,), [1], {"a": 1}, {1: "a", None: True, (1, 2): [3], b"k": {}},
        {"id": 1, "name": "abc", "value": 1.5}, [[[[["deep"]]]]], list(range(300)), tuple("abc" * 100),
        {str(number): number for number in range(300)}, {"a long key, longer than what is remembered": 1},
    ],
    ids=lambda value: repr(value)[:20],
)  # fmt: skip
def test_a_container_comes_back_the_same(value: object) -> None:
    assert same(round_trip(value), value)


class Number(int): ...


class Word(str): ...


class Colour(enum.IntEnum):
    RED = 1


Point = namedtuple("Point", "x y")


@pytest.mark.parametrize(
    "value",
    [
        2**63, -(2**63) - 1, 1j, Number(1), Word("a"), Colour.RED, Point(1, 2), OrderedDict(a=1), {1}, frozenset(),
        bytearray(b"x"), range(3), len, int, object(), "\ud800", "x" * 4097, b"x" * 4097, [[[[[[[0]]]]]]],
        list(range(40_000)), [[Number(1)]], {"a": Word("b")},
    ],
    ids=lambda value: repr(value)[:20],
)  # fmt: skip
def test_what_pickle_may_treat_differently_is_refused(value: object) -> None:
    assert encode_plain(value) is None


def test_a_container_that_occurs_twice_is_refused() -> None:
    inner: list[int] = [1]
    assert encode_plain((inner, inner)) is None
    assert encode_plain([inner, {"again": inner}]) is None
    shared = ([1],)
    assert encode_plain([shared, shared]) is None
    # Once is fine, however many references there are.
    assert same(round_trip((inner, 2)), ([1], 2))


def test_a_container_that_contains_itself_is_refused() -> None:
    loop: list[object] = []
    loop.append(loop)
    assert encode_plain(loop) is None
    table: dict[str, object] = {}
    table["self"] = [table]
    assert encode_plain(table) is None


def test_many_containers_that_others_hold_too_are_refused_rather_than_searched() -> None:
    held = [[number] for number in range(100)]
    assert encode_plain([*held]) is None


def make(random_: random.Random, depth: int = 0) -> object:
    kind = random_.randrange(12 if depth < 4 else 8)
    if kind < 2:
        return random_.choice([None, True, False, random_.randrange(-(2**63), 2**63), random_.randrange(-300, 300)])
    if kind < 4:
        return struct.unpack("d", random_.randbytes(8))[0] if kind == 2 else random_.random()
    if kind < 6:
        return "".join(chr(random_.choice([65, 233, 28450, 128512])) for _ in range(random_.randrange(20)))
    if kind < 8:
        return random_.randbytes(random_.randrange(20))
    items = [make(random_, depth + 1) for _ in range(random_.randrange(5))]
    if kind == 8:
        return tuple(items)
    if kind == 9:
        return items
    return {random_.choice([f"key{n}", n, (n,), str(n).encode()]): item for n, item in enumerate(items)}


def test_random_values_come_back_the_same() -> None:
    random_ = random.Random(20)
    for _ in range(3000):
        value = make(random_)
        data = encode_plain(value)
        if data is not None:
            assert same(decode_plain(data), value), value


def test_random_bytes_give_an_object_or_an_error() -> None:
    random_ = random.Random(21)
    alphabet = b"NTFibfsSyY()[]{}" + bytes([0, 1, 2, 3, 0x7F, 0x80, 0x81, 0xFF])
    outcomes = set()
    for _ in range(30_000):
        data = bytes(random_.choices(alphabet, k=random_.randrange(24)))
        try:
            decode_plain(data)
            outcomes.add("object")
        except (ValueError, TypeError) as error:
            outcomes.add(type(error).__name__)
    assert "object" in outcomes
    assert "ValueError" in outcomes


def test_damaged_messages_give_an_object_or_an_error() -> None:
    random_ = random.Random(22)
    for _ in range(3000):
        data = encode_plain(make(random_))
        if not data:
            continue
        changed = bytearray(data)
        changed[random_.randrange(len(changed))] = random_.randrange(256)
        for candidate in (bytes(changed), data[: random_.randrange(len(data))]):
            try:
                decode_plain(candidate)
            except (ValueError, TypeError):
                pass


@pytest.mark.parametrize(
    ("data", "how"),
    [
        (b"", "ends too early"),
        (b"i123", "ends too early"),
        (b"s\x05ab", "ends too early"),
        (b"NN", "something follows"),
        (b"?", "tag is unknown"),
        (b"]\xff\xff\xff\xff", "count is larger"),
        (b")\xff\xff\xff\x7fN", "count is larger"),
        (b"[\x01" * 1000 + b"N", "nested too deeply"),
        (b"{\x01" * 1000 + b"N", "nested too deeply|count is larger"),
    ],
)
def test_bytes_that_are_no_message_are_named_so(data: bytes, how: str) -> None:
    with pytest.raises(ValueError, match=how):
        decode_plain(data)


def test_text_that_is_not_utf8_is_an_error() -> None:
    with pytest.raises(UnicodeDecodeError):
        decode_plain(b"s\x01\xff")


def test_a_key_that_cannot_be_hashed_is_an_error() -> None:
    with pytest.raises(TypeError):
        decode_plain(b"{\x01[\x00N")
