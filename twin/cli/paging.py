"""The options of a page, alike for every command that serves one."""

from __future__ import annotations

import argparse

from twin.cli.texts import port

PORT = 8_080


def add_page(parser: argparse.ArgumentParser) -> None:
    """Where the page listens, and who may come."""
    parser.add_argument("--port", metavar="N", type=port, default=PORT, help=f"of the page (default: {PORT})")
    parser.add_argument(
        "--bind", metavar="ADDRESS", default="127.0.0.1", help="where the page listens (default: 127.0.0.1)"
    )
    parser.add_argument(
        "--allow-remote", action="store_true", help="the page may be seen from other machines, by who has its token"
    )
