"""What stands between a run and its page: it starts the page's process, and again when that dies.

The run knows nothing of it: both ends of what it holds, the listener and the feed, stay open meanwhile, so that the
address and the token are the same, and a browser finds the page again by itself. It imports next to nothing, so that
it needs little memory and little can befall it.
"""

from __future__ import annotations

import marshal
import os
import select
import signal
import socket
import sys
from collections.abc import Sequence

LARGEST = 1 << 20
"""No message of a feed is larger (bytes)."""
PAUSES_SECONDS = (0.2, 1.0, 5.0)
"""So long it is waited before the page is started again, each time; after the last one it is given up."""
SERVER = "twin.dashboard.server"
GIVEN_UP = 1


def main(arguments: Sequence[str]) -> int:
    """Keep a page; `arguments` are the descriptors of the listener and of the feed."""
    # Ctrl-C is for the run; the feed's end is what ends this.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(fileno=int(arguments[0])) as listener, socket.socket(fileno=int(arguments[1])) as feed:
        for each in (listener, feed):
            each.set_inheritable(True)
        return _keep(feed, arguments)


def _keep(feed: socket.socket, arguments: Sequence[str]) -> int:
    # Who may ask, and what the run is: each page has to know, and both are told once.
    hello, about = feed.recv(LARGEST), feed.recv(LARGEST)
    over = select.poll()
    over.register(feed, 0)
    for number in range(len(PAUSES_SECONDS) + 1):
        status = _status(_start(arguments, marshal.dumps((hello, about, number > 0))))
        if status == 0 or over.poll(0):
            return 0
        how = f"signal {-status}" if status < 0 else f"status {status}"
        if number == len(PAUSES_SECONDS):
            print(f"twin: the page ended ({how}) for the last time; it is not started again", file=sys.stderr)
            return GIVEN_UP
        print(f"twin: the page ended ({how}); it is started again", file=sys.stderr, flush=True)
        if over.poll(PAUSES_SECONDS[number] * 1_000):
            return 0
    return GIVEN_UP


def _start(arguments: Sequence[str], told: bytes) -> int:
    """Start the page's process. What it is told goes into its standard input: a command line can be read by others."""
    words = os.memfd_create("told")
    try:
        os.write(words, told)
        os.lseek(words, 0, os.SEEK_SET)
        command = [sys.executable, "-P", "-m", SERVER, *arguments, str(os.getpid())]
        return os.posix_spawn(sys.executable, command, dict(os.environ), file_actions=[(os.POSIX_SPAWN_DUP2, words, 0)])
    finally:
        os.close(words)


def _status(process: int) -> int:
    """How it ended, once it has: its status, or the number of its signal, negative."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
