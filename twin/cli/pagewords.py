"""The options of a page, alike for every command that serves one. What they mean is in `twin.cli.paging`."""

from __future__ import annotations

import argparse

from twin.cli.texts import port

PORT = 8_080
BIND = "127.0.0.1"


def add_page(parser: argparse.ArgumentParser) -> None:
    """Where the page listens, and who may come."""
    parser.add_argument("--port", metavar="N", type=port, help=f"where the page listens (default: {PORT}; 0: any)")
    parser.add_argument("--bind", metavar="ADDRESS", help=f"at which address of this machine (default: {BIND})")
    parser.add_argument(
        "--allow-remote", action="store_true", help="with --bind: who has the token may ask from other machines"
    )
