"""Sees the end of another process as soon as the kernel knows of it, which is long before it tells anybody.

A process that is killed has first to be given a processor, then frees all its memory, and only then its sockets close
and its `pidfd` is ready. Where there is much memory and processors are busy that takes a tenth of a second.
"""

from __future__ import annotations

import signal
import socket
import struct
from typing import Any

from hardware.linux.sysfs import Root

STAT_BYTES = 1_024
_EXITING = 0x4
"""`PF_EXITING` of the kernel's `linux/sched.h`."""
_KILLED = 1 << signal.SIGKILL - 1


def maker(channel: socket.socket) -> Any:
    """The number of the process that made the channel."""
    return struct.unpack("3i", channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]


def dying(root: Root, process: int) -> bool:
    """Whether the process is exiting, or will as soon as it has a processor. False where that cannot be known.

    Of proc(5), `stat`: field 9 (flags) and field 31 (pending signals), counted from 1; the name, which may hold
    anything, ends with the last parenthesis.
    """
    fields = root.read_bytes(f"/proc/{process}/stat", STAT_BYTES)[0].rpartition(b")")[2].split()
    return len(fields) > 28 and bool(int(fields[6]) & _EXITING or int(fields[28]) & _KILLED)
