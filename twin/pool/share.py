"""Handing a pool to another process of the same user: its descriptor over a Unix socket that has no file."""

from __future__ import annotations

import array
import contextlib
import os
import socket
import struct
import threading
from hashlib import blake2b
from pathlib import Path

from twin.pool import forks
from twin.pool.errors import PoolError
from twin.pool.mapping import Mapping

_GREETING = b"crystal1"
_READ, _WRITE = b"r", b"w"
_PATIENCE_SECONDS = 2.0
_ASKER_SECONDS = 0.1
"""How long the server waits for an asker's wish, which comes at once; others wait meanwhile."""
_PEER = struct.Struct("3i")


def socket_name(run_directory: Path) -> bytes:
    """The abstract address at which the run in this directory hands out its pool."""
    place = f"{os.geteuid()} {run_directory.resolve()}".encode()
    return b"\0pulsetwin/" + blake2b(place, digest_size=16).hexdigest().encode()


class Server:
    """Hands the descriptor of `mapping` to every process of the same user that asks, until it is closed.

    Those who ask for reading get one that cannot be written through. It works in a thread of its own, one asker at a
    time. Raises `PoolError` when somebody serves under that name already.
    """

    def __init__(self, mapping: Mapping, name: bytes) -> None:
        self._mapping = mapping
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.bind(name)
            self._socket.listen(16)
        except OSError as error:
            self._socket.close()
            raise PoolError(f"the pool cannot be handed out: {error.strerror}; another run writes there") from error
        self._closing = threading.Event()
        forks.watch(self)
        self._thread = threading.Thread(target=self._serve, name="crystal-core", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while not self._closing.is_set():
            try:
                asker, _ = self._socket.accept()
            except OSError:
                # Closed; or out of descriptors, which passes.
                self._closing.wait(_ASKER_SECONDS)
                continue
            with asker, contextlib.suppress(OSError):
                asker.settimeout(_ASKER_SECONDS)
                self._answer(asker)

    def _answer(self, asker: socket.socket) -> None:
        _, user, _ = _PEER.unpack(asker.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
        wish = asker.recv(1)
        if user != os.geteuid() or wish not in (_READ, _WRITE) or self._mapping.fd is None:
            return
        flags = os.O_RDWR if wish == _WRITE else os.O_RDONLY
        descriptor = os.open(f"/proc/self/fd/{self._mapping.fd}", flags | os.O_CLOEXEC)
        try:
            rights = array.array("i", [descriptor])
            asker.sendmsg([_GREETING], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Stop. The name is free, the thread is gone."""
        self._closing.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(2 * _PATIENCE_SECONDS)

    def after_fork_in_child(self) -> None:
        """A child does not keep the name."""
        self._socket.close()


def receive(name: bytes, writable: bool) -> int:
    """The descriptor that the server at `name` hands out; the caller's to close. Raises `PoolError` when none does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(_PATIENCE_SECONDS)
        try:
            asking.connect(name)
            _, user, _ = _PEER.unpack(asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
            if user != os.geteuid():
                raise PoolError(
                    f"whoever listens there is user {user}, and this is user {os.geteuid()}; it is not this run"
                )
            asking.sendall(_WRITE if writable else _READ)
            greeting, rights, _, _ = asking.recvmsg(
                len(_GREETING), socket.CMSG_SPACE(array.array("i").itemsize), socket.MSG_CMSG_CLOEXEC
            )
        except TimeoutError as error:
            raise PoolError(f"whoever hands out the pool did not answer within {_PATIENCE_SECONDS:g} s") from error
        except OSError as error:
            raise PoolError(f"nobody hands out a pool there: {error.strerror}") from error
    received = array.array("i")
    for level, kind, data in rights:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            received.frombytes(data[: len(data) // received.itemsize * received.itemsize])
    if greeting != _GREETING or len(received) != 1:
        for descriptor in received:
            os.close(descriptor)
        raise PoolError("whoever listens there does not hand out a pool, or not to this user")
    return received[0]
