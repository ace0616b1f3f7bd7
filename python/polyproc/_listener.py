"""Listener and Client: connections by address, between programs that may know nothing of each other. An *own* module.

The bytes on the wire are the standard library's, so either side may be CPython's own ``multiprocessing``: frames of a
length and a body, and a handshake in which each side proves with an HMAC that it knows the key. SHA-256 is asked for; a
peer of Python 3.11 or older, which knows only MD5, is answered in its own way.

```text
 Listener                                  Client
    │ #CHALLENGE#{sha256}<40 random bytes>    │
    ├────────────────────────────────────────▶│
    │ {sha256}<HMAC of the challenge>         │
    │◀────────────────────────────────────────┤
    │ #WELCOME# or #FAILURE#                  │
    ├────────────────────────────────────────▶│
    │ ... and the same the other way round    │
```

What is different is who can hold up whom. A handshake has a deadline, and a listener shakes hands with everybody who
has connected at the same time: `accept()` returns whoever is done first. A message of a peer that has not proved
anything is at most 256 bytes, is read when it is there, and is never unpickled.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Generator
from typing import Any

from .context import AuthenticationError

__all__ = ["Client", "Listener", "answer_challenge", "deliver_challenge"]

#: Seconds that a handshake may take before the peer is given up.
HANDSHAKE_SECONDS = 5.0

#: Bytes that a message of an unknown peer may have.
LONGEST_MESSAGE = 256

#: Handshakes that a listener carries on at a time; with more, the oldest gives way.
MOST_HANDSHAKES = 256

MESSAGE_LENGTH = 40  # what 3.12 and later send; those before send 20, and nothing else may have that length
CHALLENGE, WELCOME, FAILURE = b"#CHALLENGE#", b"#WELCOME#", b"#FAILURE#"

_DIGESTS = frozenset({b"md5", b"sha256", b"sha384", b"sha3_256", b"sha3_384"})
_LEGACY_LENGTHS = (20, 16)  # of a challenge and of an answer that know no digest but MD5

#: A handshake as steps: yields bytes to be sent, or None for the next message, which is sent in.
Steps = Generator["bytes | None", bytes, None]


# ------------------------------------------------------------------------------------------------ the handshake


def _digest_of(message: bytes) -> tuple[str, bytes]:
    """The digest that a challenge or an answer names, and what follows; no name means MD5, as it was up to 3.11."""
    if len(message) in _LEGACY_LENGTHS:
        return "", message
    if message.startswith(b"{"):
        name, brace, rest = message[1:].partition(b"}")
        if brace and name in _DIGESTS:
            return name.decode("ascii"), rest
    raise AuthenticationError(
        f"unsupported message length, missing digest prefix, or unsupported digest: message={message!r}"
    )


def _create_response(authkey: bytes, message: bytes) -> bytes:
    """What proves to the sender of the challenge `message` that `authkey` is known here."""
    import hmac

    name, _ = _digest_of(message)
    if not name:
        try:
            return hmac.new(authkey, message, "md5").digest()
        except ValueError:  # no MD5 in this build of OpenSSL: the peer may understand more than it says
            name = "sha256"
    return b"{%s}%s" % (name.encode("ascii"), hmac.new(authkey, message, name).digest())


def _verify_challenge(authkey: bytes, message: bytes, response: bytes) -> None:
    """Raises AuthenticationError unless `response` proves, for the challenge `message`, that its sender knows `authkey`."""
    import hmac

    name, mac = _digest_of(response)
    name = name or "md5"
    try:
        expected = hmac.new(authkey, message, name).digest()
    except ValueError:
        raise AuthenticationError(f"the digest {name} is not available here") from None
    if len(expected) != len(mac):
        raise AuthenticationError(f"expected {name!r} of length {len(expected)} got {len(mac)}")
    if not hmac.compare_digest(expected, mac):
        raise AuthenticationError("digest received was wrong")


def _delivering(authkey: bytes, digest_name: str = "sha256") -> Steps:
    """Asks the peer for its proof."""
    message = b"{%s}%s" % (digest_name.encode("ascii"), os.urandom(MESSAGE_LENGTH))
    yield CHALLENGE + message
    response = yield None
    assert response is not None
    try:
        _verify_challenge(authkey, message, response)
    except AuthenticationError:
        yield FAILURE
        raise
    yield WELCOME


def _answering(authkey: bytes) -> Steps:
    """Gives the peer the proof that it asks for."""
    message = yield None
    assert message is not None
    if not message.startswith(CHALLENGE):
        raise AuthenticationError(f"Protocol error, expected challenge: message={message!r}")
    message = message[len(CHALLENGE) :]
    if len(message) < _LEGACY_LENGTHS[0]:
        raise AuthenticationError(f"challenge too short: {len(message)} bytes")
    yield _create_response(authkey, message)
    response = yield None
    if response != WELCOME:
        raise AuthenticationError("digest sent was rejected")


def _serving(authkey: bytes) -> Steps:
    yield from _delivering(authkey)
    yield from _answering(authkey)


def _check_key(authkey: object) -> None:
    if authkey is not None and not isinstance(authkey, bytes):
        raise TypeError("authkey should be a byte string")


def deliver_challenge(connection: Any, authkey: bytes, digest_name: str = "sha256") -> None:
    """Makes the other end of `connection` prove that it knows `authkey`.

    Raises:
        AuthenticationError: it does not, or says nothing for five seconds.
    """
    if not isinstance(authkey, bytes):
        raise ValueError(f"Authkey must be bytes, not {type(authkey)!s}")
    _carry_out(_delivering(authkey, digest_name), connection, "the peer")


def answer_challenge(connection: Any, authkey: bytes) -> None:
    """Proves to the other end of `connection` that this one knows `authkey`.

    Raises:
        AuthenticationError: the other end knows another key, or says nothing for five seconds.
    """
    if not isinstance(authkey, bytes):
        raise ValueError(f"Authkey must be bytes, not {type(authkey)!s}")
    _carry_out(_answering(authkey), connection, "the peer")


def _carry_out(steps: Steps, connection: Any, peer: str) -> None:
    """Carries the steps out over a connection, waiting for the peer for at most HANDSHAKE_SECONDS."""
    from . import connection as module

    stream = getattr(connection, "_conn", connection)  # the XML connection wraps one
    deadline = time.monotonic() + HANDSHAKE_SECONDS if type(stream) is module.Connection else None
    wanted = next(steps)
    while True:
        try:
            if wanted is not None:
                connection.send_bytes(wanted)
                wanted = next(steps)
            elif deadline is None:  # not a stream: it frames by itself
                wanted = steps.send(connection.recv_bytes(LONGEST_MESSAGE))
            else:
                wanted = steps.send(_read_frame(stream, deadline, peer))
        except StopIteration:
            return


def _read_frame(connection: Any, deadline: float, peer: str) -> bytes:
    reader = _FrameReader()
    descriptor = connection.fileno()
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    while True:
        left = deadline - time.monotonic()
        if not poller.poll(max(left, 0.0) * 1000):
            if left <= 0:
                connection.close()
                raise AuthenticationError(
                    f"{peer} has not shaken hands within {HANDSHAKE_SECONDS:g} s: it has no authkey (then give none here "
                    "either), it is not a Listener, or it is too busy to accept"
                )
            continue
        data = os.read(descriptor, reader.missing)
        try:
            frame = reader.feed(data)
        except OSError:
            connection.close()
            raise
        if frame is not None:
            return frame


class _FrameReader:
    """Puts one short frame together, reading no byte of what follows it."""

    def __init__(self) -> None:
        self._data = b""
        self._size: int | None = None

    @property
    def missing(self) -> int:
        """How many bytes may be read for now."""
        return (4 if self._size is None else self._size) - len(self._data)

    def feed(self, data: bytes) -> bytes | None:
        """Takes bytes; gives the frame once it is whole. EOFError at the end of the stream."""
        if not data:
            raise EOFError
        self._data += data
        if self.missing:
            return None
        if self._size is None:
            (size,) = struct.unpack("!i", self._data)
            if not 0 <= size <= LONGEST_MESSAGE:  # -1 announces more than 2 GiB
                raise OSError("bad message length")
            self._data, self._size = b"", size
            if size:
                return None
        return self._data


# ------------------------------------------------------------------------------------------------ the listening side


class _Handshake:
    """A handshake with one who has connected, carried on whenever there is something to read."""

    def __init__(self, sock: socket.socket, address: Any, authkey: bytes) -> None:
        self.socket = sock
        self.address = address
        self.deadline = time.monotonic() + HANDSHAKE_SECONDS
        self._steps = _serving(authkey)
        self._reader = _FrameReader()
        sock.setblocking(False)

    def begin(self) -> None:
        self._go_on(next(self._steps))

    def advance(self) -> bool:
        """Reads what is there. True once the peer is who it says; raises what ends the handshake otherwise."""
        while True:
            try:
                data = self.socket.recv(self._reader.missing)
            except (BlockingIOError, InterruptedError):
                return False
            try:
                frame = self._reader.feed(data)
            except OSError as error:
                raise AuthenticationError(f"a peer that had not authenticated sent a frame that is too long: {error}") from None
            if frame is None:
                continue
            self._reader = _FrameReader()
            try:
                self._go_on(self._steps.send(frame))
            except StopIteration:
                self.socket.setblocking(True)
                return True

    def _go_on(self, wanted: bytes | None) -> None:
        while wanted is not None:
            frame = struct.pack("!i", len(wanted)) + wanted
            # The first hundred bytes into an empty socket buffer: what does not fit is a peer that plays tricks.
            if self.socket.send(frame) != len(frame):
                raise EOFError
            wanted = next(self._steps)


class Listener:
    """Waits for connections at an address.

    Args:
        address: A path (Unix socket), or a pair of host and port; None for a new one, in a directory of mode 0700.
        family: ``"AF_UNIX"`` or ``"AF_INET"``, where the address does not tell.
        backlog: How many may have connected and not be accepted yet.
        authkey: A secret that the two sides prove to each other that they know; None lets everybody in.

    Raises:
        OSError: the address cannot be listened at.
        TypeError: `authkey` is not bytes.

    Example:
        >>> from polyproc.connection import Client, Listener
        >>> with Listener(authkey=b"secret") as listener:
        ...     listener.address.startswith("/")
        True
    """

    def __init__(
        self, address: Any = None, family: str | None = None, backlog: int = 1, authkey: bytes | None = None
    ) -> None:
        from . import connection

        family = family or (address and connection.address_type(address)) or connection.default_family
        address = address or connection.arbitrary_address(family)
        connection._validate_family(family)
        _check_key(authkey)
        self._authkey = authkey
        self._listener: Any = connection.SocketListener(address, family, backlog)
        self._handshakes: list[_Handshake] = []
        self._turn = threading.Lock()  # one thread at a time looks after the handshakes
        self._waking = threading.Lock()  # around what follows
        self._closing: int | None = None  # an eventfd that wakes it, while somebody is inside accept()

    def accept(self) -> Any:
        """Returns a connection to the next who has connected and, with an authkey, has shown that they know it.

        Peers that say nothing, or hang up, hold up nobody and are passed over.

        Raises:
            AuthenticationError: a peer has another key or speaks something else. Others may be accepted after it.
            OSError: the listener is closed, also while this waits.
        """
        from . import connection

        if self._listener is None:
            raise OSError("listener is closed")
        with self._turn:
            listener = self._listener
            if listener is None:
                raise OSError("listener is closed")
            self._closing = os.eventfd(0, os.EFD_CLOEXEC)
            try:
                if self._listener is None:
                    raise OSError("listener is closed")
                now = time.monotonic()
                for handshake in self._handshakes:  # the time in which nobody was inside accept() does not count
                    handshake.deadline = now + HANDSHAKE_SECONDS
                peer, address = self._next_peer(listener._socket, self._closing)
            finally:
                with self._waking:
                    os.close(self._closing)
                    self._closing = None
            listener._last_accepted = address
            return connection.Connection(peer.detach())

    def _next_peer(self, listening: socket.socket, closing: int) -> tuple[socket.socket, Any]:
        poller = select.poll()
        poller.register(listening, select.POLLIN)
        poller.register(closing, select.POLLIN)
        for handshake in self._handshakes:
            poller.register(handshake.socket, select.POLLIN)
        while True:
            timeout = None
            if self._handshakes:
                timeout = max(min(each.deadline for each in self._handshakes) - time.monotonic(), 0.0) * 1000
            ready = {descriptor for descriptor, _ in poller.poll(timeout)}
            if closing in ready:
                raise OSError(errno.EBADF, "listener is closed")
            for handshake in list(self._handshakes):
                if handshake.socket.fileno() in ready:
                    if self._advance(handshake, poller):
                        return handshake.socket, handshake.address
                elif handshake.deadline <= time.monotonic():
                    self._give_up(handshake, poller, "it did not answer in time")
            if listening.fileno() in ready:
                peer, address = listening.accept()
                peer.setblocking(True)
                if self._authkey is None:
                    return peer, address
                self._begin(peer, address, poller)

    def _begin(self, peer: socket.socket, address: Any, poller: select.poll) -> None:
        assert self._authkey is not None
        handshake = _Handshake(peer, address, self._authkey)
        if len(self._handshakes) >= MOST_HANDSHAKES:
            self._give_up(self._handshakes[0], poller, "too many handshakes at a time")
        self._handshakes.append(handshake)
        poller.register(peer, select.POLLIN)
        try:
            handshake.begin()
        except (OSError, EOFError) as error:
            self._give_up(handshake, poller, f"it hung up ({error})")

    def _advance(self, handshake: _Handshake, poller: select.poll) -> bool:
        try:
            done = handshake.advance()
        except AuthenticationError:
            self._give_up(handshake, poller, "it does not know the key")
            raise
        except (OSError, EOFError) as error:
            self._give_up(handshake, poller, f"it hung up ({error})")
            return False
        if done:
            self._handshakes.remove(handshake)
        return done

    def _give_up(self, handshake: _Handshake, poller: select.poll, why: str) -> None:
        from . import util

        poller.unregister(handshake.socket)
        self._handshakes.remove(handshake)
        handshake.socket.close()
        util.info("a peer at %r was not let in: %s", handshake.address, why)

    def close(self) -> None:
        """Stops listening and removes the socket's file. Connections that were accepted stay; closing twice is fine."""
        listener, self._listener = self._listener, None
        if listener is None:
            return
        with self._waking:
            if self._closing is not None:
                os.eventfd_write(self._closing, 1)
        handshakes, self._handshakes = self._handshakes, []
        for handshake in handshakes:
            handshake.socket.close()
        listener.close()

    @property
    def address(self) -> Any:
        """Where it listens; a port that was given as 0 is the one the system chose."""
        return self._listener._address

    @property
    def last_accepted(self) -> Any:
        """The address of whom the last ``accept()`` returned, as far as it has one; None before."""
        return self._listener._last_accepted

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, exc_type: object, exc_value: object, exc_tb: object) -> None:
        self.close()


# ------------------------------------------------------------------------------------------------ the calling side


def Client(address: Any, family: str | None = None, authkey: bytes | None = None) -> Any:
    """Connects to the :class:`Listener` at `address` and returns the connection.

    Args:
        address: What the listener's ``address`` tells.
        family: Usually told by the address.
        authkey: The listener's key; None if it has none.

    Raises:
        OSError: nobody listens there.
        AuthenticationError: the listener has another key or none, or does not shake hands within five seconds.

    Example:
        >>> import threading
        >>> from polyproc.connection import Client, Listener
        >>> listener = Listener(authkey=b"secret")
        >>> thread = threading.Thread(target=lambda: listener.accept().send("hello"))
        >>> thread.start()
        >>> Client(listener.address, authkey=b"secret").recv()
        'hello'
        >>> thread.join()
        >>> listener.close()
    """
    from . import connection

    family = family or connection.address_type(address)
    connection._validate_family(family)
    _check_key(authkey)
    client = connection.SocketClient(address)
    if authkey is not None:
        try:
            _carry_out(_answering(authkey), client, f"the listener at {address!r}")
            _carry_out(_delivering(authkey), client, f"the listener at {address!r}")
        except BaseException:
            client.close()
            raise
    return client
