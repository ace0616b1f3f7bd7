"""Listener and Client: who is let in, who cannot hold up whom, and that CPython's own understand it."""

from __future__ import annotations

import os
import pickle
import runpy
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

import polyproc as mp
from polyproc import _listener
from polyproc.connection import Client, Listener, answer_challenge, deliver_challenge

ROOT = Path(__file__).resolve().parents[2]
KEY = b"a key of the tests"
TIME = 20.0

ADDRESSES = [pytest.param(None, id="unix"), pytest.param(("127.0.0.1", 0), id="tcp")]


def in_thread(call: Callable[[], Any]) -> Future[Any]:
    """Runs `call` in a thread; the future has what it returns or raises."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def raw(address: Any) -> socket.socket:
    """A peer that speaks for itself."""
    peer = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
    peer.settimeout(TIME)
    peer.connect(address)
    return peer


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("key", [None, KEY, b""])
def test_a_client_and_a_listener_find_each_other(address: Any, key: bytes | None) -> None:
    with Listener(address, authkey=key) as listener:
        client = in_thread(lambda: Client(listener.address, authkey=key))
        with listener.accept() as ours, client.result(TIME) as theirs:
            ours.send({"number": 1})
            assert theirs.recv() == {"number": 1}
            theirs.send_bytes(b"x" * 100_000)
            assert ours.recv_bytes() == b"x" * 100_000


OTHER_SIDE = """
import sys
from multiprocessing.connection import Client, Listener
if sys.argv[1] == "client":
    with Client(eval(sys.argv[2]), authkey=b"a key of the tests") as connection:
        connection.send("hello"); print(connection.recv())
else:
    with Listener(eval(sys.argv[2]), authkey=b"a key of the tests") as listener:
        print(repr(listener.address), flush=True)
        with listener.accept() as connection:
            connection.send(connection.recv())
"""


def other_pythons() -> list[Any]:
    """This interpreter and all others of the machine that `make wheel` tries: 3.11 answers by MD5, 3.12 and later by SHA-256."""
    found: dict[str, str] = runpy.run_path(str(ROOT / "tools" / "wheel.py"))["interpreters"]([sys.executable])
    return [pytest.param(path, id=version) for path, version in found.items()]


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("python", other_pythons())
def test_the_standard_librarys_client_and_listener_are_understood(python: str, address: Any) -> None:
    with Listener(address, authkey=KEY) as listener:
        command = [python, "-c", OTHER_SIDE, "client", repr(listener.address)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            with listener.accept() as connection:
                connection.send(connection.recv())
            assert process.communicate(timeout=TIME)[0] == "hello\n"

    command = [python, "-c", OTHER_SIDE, "listener", repr(address)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        with Client(eval(process.stdout.readline()), authkey=KEY) as connection:
            connection.send("hello")
            assert connection.recv() == "hello"


class OldPeer:
    """The handshake of Python 3.11 and older, as a connection-like object between two of them."""

    def __init__(self) -> None:
        self.left, self.right = mp.Pipe()

    def deliver(self) -> None:
        import hmac

        message = os.urandom(20)
        self.left.send_bytes(b"#CHALLENGE#" + message)
        right = self.left.recv_bytes(256) == hmac.new(KEY, message, "md5").digest()
        self.left.send_bytes(b"#WELCOME#" if right else b"#FAILURE#")

    def answer(self) -> bytes:
        import hmac

        message = self.left.recv_bytes(256).removeprefix(b"#CHALLENGE#")
        self.left.send_bytes(hmac.new(KEY, message, "md5").digest())
        return self.left.recv_bytes(256)


def test_a_peer_that_knows_only_md5_is_answered_and_believed() -> None:
    peer = OldPeer()
    delivered = in_thread(peer.deliver)
    answer_challenge(peer.right, KEY)
    delivered.result(TIME)
    answered = in_thread(peer.answer)
    deliver_challenge(peer.right, KEY)
    assert answered.result(TIME) == b"#WELCOME#"


def test_a_peer_cannot_talk_a_listener_down_to_a_weaker_digest() -> None:
    import hmac

    message = b"{sha256}" + os.urandom(40)
    weak = hmac.new(KEY, message[8:], "md5").digest()
    with pytest.raises(mp.AuthenticationError):
        _listener._verify_challenge(KEY, message, b"{md5}" + weak)


def test_the_wrong_key_is_refused_on_both_sides() -> None:
    with Listener(authkey=KEY) as listener:
        wrong = in_thread(lambda: Client(listener.address, authkey=b"another"))
        with pytest.raises(mp.AuthenticationError, match="digest received was wrong"):
            listener.accept()
        with pytest.raises(mp.AuthenticationError, match="digest sent was rejected"):
            wrong.result(TIME)
        right = in_thread(lambda: Client(listener.address, authkey=KEY))
        listener.accept().close()
        right.result(TIME).close()


def test_a_key_must_be_bytes() -> None:
    with pytest.raises(TypeError, match="byte string"):
        Listener(authkey="text")  # type: ignore[arg-type]


@pytest.mark.parametrize("address", ADDRESSES)
def test_silent_and_slow_peers_hold_up_nobody(address: Any) -> None:
    with Listener(address, authkey=KEY, backlog=10) as listener:
        peers = [raw(listener.address) for _ in range(3)]
        peers[1].sendall(b"\0")
        peers[2].sendall(struct.pack("!i", 200) + b"x")
        client = in_thread(lambda: Client(listener.address, authkey=KEY))
        with listener.accept() as connection:
            client.result(TIME).send("hello")
            assert connection.recv() == "hello"
        for peer in peers:
            peer.close()


def test_a_silent_peer_is_given_up_after_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_listener, "HANDSHAKE_SECONDS", 0.05)
    with Listener(authkey=KEY) as listener:
        accepted = in_thread(listener.accept)
        with raw(listener.address) as peer:
            assert peer.recv(11 + 4).endswith(b"#CHALLENGE#")
            while peer.recv(100):
                pass  # until it is closed
        assert not accepted.done()
    with pytest.raises(OSError, match="listener is closed"):
        accepted.result(TIME)


def test_what_hangs_up_is_passed_over() -> None:
    with Listener(authkey=KEY, backlog=10) as listener:
        for _ in range(5):
            raw(listener.address).close()
        client = in_thread(lambda: Client(listener.address, authkey=KEY))
        listener.accept().close()
        client.result(TIME).close()


def test_the_oldest_handshake_gives_way_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_listener, "MOST_HANDSHAKES", 2)
    with Listener(authkey=KEY, backlog=10) as listener:
        peers = [raw(listener.address) for _ in range(4)]
        client = in_thread(lambda: Client(listener.address, authkey=KEY))
        # One of the silent ones may be the third at the time: then the client comes by another call.
        listener.accept().close()
        client.result(TIME).close()
        for peer in peers:
            peer.close()


class Bomb:
    def __reduce__(self) -> Any:
        return os.mkdir, ("unpickled",)


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("!i", 100) + pickle.dumps(Bomb()).ljust(100, b"\0"),
        struct.pack("!iQ", -1, 1 << 40),
        struct.pack("!i", 0x7FFFFFFF) + b"x" * 1000,
        struct.pack("!i", 0),
        struct.pack("!i", 16) + b"x" * 16,
        b"{sha256}" * 100,
    ],
)
def test_hostile_bytes_are_refused_and_nothing_is_unpickled(
    data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with Listener(authkey=KEY) as listener:
        peer = raw(listener.address)
        peer.sendall(data)
        with pytest.raises(mp.AuthenticationError):
            listener.accept()
        peer.close()
        client = in_thread(lambda: Client(listener.address, authkey=KEY))
        listener.accept().close()
        client.result(TIME).close()
    assert not list(tmp_path.iterdir())


def test_a_client_with_a_key_does_not_wait_for_a_listener_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_listener, "HANDSHAKE_SECONDS", 0.1)
    with Listener() as listener:
        client = in_thread(lambda: Client(listener.address, authkey=KEY))
        with listener.accept(), pytest.raises(mp.AuthenticationError, match="it has no authkey"):
            client.result(TIME)


def test_closing_ends_an_accept_of_another_thread() -> None:
    listener = Listener(authkey=KEY)
    address = listener.address
    accepted = in_thread(listener.accept)
    raw(address).recv(1)  # so it is inside accept()
    listener.close()
    listener.close()
    with pytest.raises(OSError, match="listener is closed"):
        accepted.result(TIME)
    with pytest.raises(OSError, match="listener is closed"):
        listener.accept()


def test_a_signal_handler_interrupts_accept() -> None:
    class Interrupted(Exception):
        pass

    def interrupt(number: int, frame: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with Listener(authkey=KEY) as listener:

            def kick() -> None:
                with raw(listener.address) as peer:
                    peer.recv(1)  # the challenge: accept() is at work
                    os.kill(os.getpid(), signal.SIGUSR1)

            kicked = in_thread(kick)
            with pytest.raises(Interrupted):
                listener.accept()
            kicked.result(TIME)
            client = in_thread(lambda: Client(listener.address, authkey=KEY))
            listener.accept().close()
            client.result(TIME).close()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_sockets_file_lies_in_a_private_directory_and_is_removed() -> None:
    listener = Listener()
    path = Path(listener.address)
    assert stat.S_ISSOCK(path.stat().st_mode)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    listener.close()
    assert not path.exists()


def test_an_address_can_be_used_again_at_once() -> None:
    with Listener(("127.0.0.1", 0)) as listener:
        client = in_thread(lambda: Client(listener.address))
        listener.accept().close()
        client.result(TIME).close()
        address = listener.address
    with Listener(address) as again:
        assert again.address == address
        with pytest.raises(OSError):
            Listener(address)


def test_last_accepted_tells_the_peer() -> None:
    with Listener(("127.0.0.1", 0)) as listener:
        assert listener.last_accepted is None
        with raw(listener.address) as peer, listener.accept():
            assert listener.last_accepted == peer.getsockname()
