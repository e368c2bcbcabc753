"""Where a page listens: its options, alike for every command that serves one, and the address that they mean."""

from __future__ import annotations

import argparse
import contextlib
import errno
import fcntl
import ipaddress
import os
import secrets
import socket
import struct
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from twin.cli import InputError
from twin.cli.pagewords import BIND, PORT
from twin.dashboard.gate import Access, place

NEEDED = ("flask", "flask_socketio", "simple_websocket", "werkzeug")
"""What the extra `dashboard` brings."""
TRIED = 100
"""So many ports after a taken one are looked at for a free one."""
_SIOCGIFADDR = 0x8915
_LISTENS = "0A"
"""The state of a socket that listens, in /proc/net/tcp."""
_HERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""What reaches this machine itself, where a page listens at every address."""


@contextlib.contextmanager
def listening(options: argparse.Namespace) -> Iterator[tuple[socket.socket, Access]]:
    """A socket that listens where `--bind` and `--port` say, and who may ask there: a token that is new each time.

    Raises `InputError` when that cannot be: what is missing, what the address should be, or who has the port.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise InputError(
            f"the page needs {', '.join(missing)}; pip install 'pulsetwin[dashboard]' adds what is missing"
        )
    port = PORT if options.port is None else options.port
    address = _address(options.bind or BIND, options.allow_remote)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        listener = socket.create_server((address, port), family=family, backlog=256)
    except OSError as error:
        raise InputError(_refused(address, port, family, error.errno or 0)) from error
    with listener:
        names = [_HERE.get(address, address), "localhost"]
        if options.allow_remote:
            names += [socket.gethostname(), socket.getfqdn()]
        hosts = tuple(dict.fromkeys(place(name, listener.getsockname()[1]) for name in names))
        yield listener, Access(secrets.token_urlsafe(32), hosts, options.allow_remote)


def link(access: Access) -> str:
    """What a browser opens."""
    return f"http://{access.hosts[0]}/?token={access.token}"


def elsewhere(access: Access) -> list[str]:
    """Where other machines find the page, and what they should know; nothing where they may not come."""
    if not access.remote:
        return []
    here, _, port = access.hosts[0].rpartition(":")
    # At every address, or at the one that has been said.
    addresses = {"127.0.0.1": _own_ipv4, "[::1]": _own_ipv6}.get(here, list)()
    names = [each for each in access.hosts if each not in (access.hosts[0], f"localhost:{port}")]
    own = (*(place(each, port) for each in addresses), *names)
    return [
        *(f"from other machines http://{each}/?token={access.token}" for each in dict.fromkeys(own)),
        "the connection is not encrypted: whoever is between can read it, and the token",
    ]


def _own_ipv4() -> list[str]:
    """The addresses of this machine that others may reach, one for each interface."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):
                answer = fcntl.ioctl(asked, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                found.append(socket.inet_ntoa(answer[20:24]))
    return [each for each in found if not ipaddress.ip_address(each).is_loopback]


def _own_ipv6() -> list[str]:
    """The same of version 6, those of a single link excepted: they need more than an address."""
    found = []
    with contextlib.suppress(OSError):
        for line in Path("/proc/net/if_inet6").read_text().splitlines():
            address = ipaddress.IPv6Address(bytes.fromhex(line.split()[0]))
            if not address.is_loopback and not address.is_link_local:
                found.append(str(address))
    return found


def _address(text: str, remote: bool) -> str:
    """The address that is meant. Raises `InputError` for none, and where `--allow-remote` does not fit it."""
    try:
        address = ipaddress.ip_address(BIND if text == "localhost" else text)
    except ValueError:
        raise InputError(f"--bind {text}: is no address; write one such as {BIND}, ::1 or 0.0.0.0") from None
    if address.is_loopback == remote:
        raise InputError(
            f"--allow-remote: nobody else reaches {address}; say where with --bind, such as --bind 0.0.0.0"
            if remote
            else f"--bind {address}: other machines reach that; add --allow-remote if they may, or take {BIND}"
        )
    return str(address)


def _refused(address: str, port: int, family: int, reason: int) -> str:
    if reason == errno.EADDRINUSE:
        free = next((each for each in range(port + 1, min(port + TRIED, 65_536)) if _is_free(address, each, family)), 0)
        return f"--port {port}: is taken by {holder(port)}; " + (
            f"{free} is free" if free else "0 takes one that is free"
        )
    if reason == errno.EADDRNOTAVAIL:
        return f"--bind {address}: is no address of this machine; {BIND} always is"
    if reason in (errno.EACCES, errno.EPERM):
        return f"--port {port}: only root may listen there; take one from 1024 on"
    return f"--bind {address} --port {port}: {os.strerror(reason)}; {BIND} and {PORT} are what is usual"


def _is_free(address: str, port: int, family: int) -> bool:
    try:
        socket.create_server((address, port), family=family).close()
    except OSError:
        return False
    return True


def holder(port: int) -> str:
    """The process that listens at a port of this machine, in words, as far as the system tells."""
    sockets = {f"socket:[{inode}]" for inode in _inodes(port)}
    for process in sorted(Path("/proc").glob("[0-9]*")):
        try:
            if any(str(each.readlink()) in sockets for each in (process / "fd").iterdir()):
                return f"{(process / 'comm').read_text().strip()} (process {process.name})"
        except OSError:
            # Gone, or somebody else's.
            continue
    return "a process of another user" if sockets else "another program"


def _inodes(port: int) -> Iterator[str]:
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path("/proc/net", table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENS and int(fields[1].rpartition(":")[2], 16) == port:
                    yield fields[9]
