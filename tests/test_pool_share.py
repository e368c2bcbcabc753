"""A pool's descriptor from one process to another."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from twin.pool.errors import PoolError
from twin.pool.layout import B_BYTES, B_MAGIC, B_VERSION, POOL_MAGIC, SMALLEST_POOL, VERSION
from twin.pool.mapping import Mapping
from twin.pool.share import Server, receive, socket_name


@pytest.fixture
def mapping() -> Iterator[Mapping]:
    made = Mapping.create(SMALLEST_POOL)
    made.cells[[B_MAGIC, B_VERSION, B_BYTES]] = POOL_MAGIC, VERSION, made.bytes
    yield made
    made.close()


def test_who_asks_gets_the_pool_as_asked_for(mapping: Mapping, tmp_path: Path) -> None:
    name = socket_name(tmp_path)
    server = Server(mapping, name)
    try:
        for writable in (False, True):
            fd = receive(name, writable)
            assert not os.get_inheritable(fd)
            other = Mapping.attach(fd, writable)
            os.close(fd)
            mapping.cells[99] += 1
            assert other.cells[99] == mapping.cells[99]
            other.close()
        fd = receive(name, False)
        with pytest.raises(PoolError, match="for reading only"):
            Mapping.attach(fd, writable=True)
        os.close(fd)
    finally:
        server.close()


def test_closing_leaves_neither_thread_nor_name_nor_descriptor(mapping: Mapping, tmp_path: Path) -> None:
    def held() -> tuple[int, int]:
        return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()

    before = held()
    name = socket_name(tmp_path)
    for _ in range(3):
        Server(mapping, name).close()
    assert held() == before
    assert name[1:].decode() not in Path("/proc/net/unix").read_text()
    with pytest.raises(PoolError, match="nobody"):
        receive(name, False)


def test_a_name_is_served_once(mapping: Mapping, tmp_path: Path) -> None:
    name = socket_name(tmp_path)
    server = Server(mapping, name)
    try:
        with pytest.raises(PoolError, match="another run"):
            Server(mapping, name)
    finally:
        server.close()


def test_names_are_those_of_the_directory_and_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to("run")
    name = socket_name(tmp_path / "run")
    assert name == socket_name(tmp_path / "link") != socket_name(tmp_path)
    assert name.startswith(b"\0pulsetwin/")
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    assert socket_name(tmp_path / "run") != name


def test_another_user_gets_nothing(mapping: Mapping, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = socket_name(tmp_path)
    me = os.geteuid()
    server = Server(mapping, name)
    try:
        monkeypatch.setattr(os, "geteuid", lambda: me + 1)
        with pytest.raises(PoolError):
            receive(name, False)
    finally:
        server.close()


@pytest.mark.parametrize("answer", [b"", b"crystal1", b"something else"])
def test_a_wrong_answer_is_an_error(tmp_path: Path, answer: bytes) -> None:
    name = socket_name(tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(name)
        listening.listen()

        def speak() -> None:
            with listening.accept()[0] as asker:
                asker.recv(64)
                asker.sendall(answer)

        thread = threading.Thread(target=speak)
        thread.start()
        with pytest.raises(PoolError, match="does not hand out a pool"):
            receive(name, False)
        thread.join()


def test_nonsense_does_not_stop_the_server(mapping: Mapping, tmp_path: Path) -> None:
    name = socket_name(tmp_path)
    server = Server(mapping, name)
    try:
        for nonsense in (b"", b"?", os.urandom(5_000)):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
                asking.connect(name)
                asking.sendall(nonsense)
        os.close(receive(name, False))
    finally:
        server.close()
