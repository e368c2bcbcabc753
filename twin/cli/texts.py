"""What options are made of: texts from the command line, checked."""

from __future__ import annotations

import argparse
from pathlib import Path


def folder(text: str) -> str:
    """The name of a folder, which need not be there."""
    if not text:
        raise argparse.ArgumentTypeError("the name of a folder is needed, . is the one you are in")
    return text


def file(text: str) -> str:
    """The name of a file, which need not be there."""
    if not text:
        raise argparse.ArgumentTypeError("the name of a file is needed")
    return text


def there(text: str) -> str:
    """The name of a folder that is there."""
    try:
        there = Path(folder(text)).is_dir()
    except OSError:
        there = False
    if not there:
        raise argparse.ArgumentTypeError(f"{text!r} is not a folder; name one that holds sys and proc")
    return text


def whole(text: str) -> int:
    """A whole number; the scenario says which ones it takes."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is not a whole number") from None


def seconds(text: str) -> float:
    """A positive number of seconds, down to a millisecond."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.001 <= value <= 1e7:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0.001 to 10000000")
    return value


def finite(text: str) -> float:
    """A number that is one: neither infinite nor NaN."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not -1e300 <= value <= 1e300:
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is not a number")
    return value


def percent(text: str) -> float:
    """A share in percent, 0 to 100."""
    value = finite(text)
    if not 0.0 <= value <= 100.0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share from 0 to 100 percent")
    return value


def part_and_time(text: str) -> tuple[float, float]:
    """How far two temperatures may part (above 0, at most 50 C) and for how long (s, 1 at least), as C:SECONDS."""
    celsius, colon, duration = text.partition(":")
    try:
        value = float(celsius) if colon else 0.0
    except ValueError:
        value = 0.0
    if not 0.001 <= value <= 50.0:
        raise argparse.ArgumentTypeError(f"{text!r}: write C:SECONDS, such as 2:600 for 2 C (up to 50) over 600 s")
    needed = seconds(duration)
    if needed < 1.0:
        raise argparse.ArgumentTypeError(f"{text!r}: a second at least has to be kept, such as 2:600")
    return value, needed


def speed(text: str) -> float:
    """Simulated seconds in a second, 0.1 to 100; infinity for `max`, as many as can be."""
    try:
        value = float("inf") if text == "max" else float(text)
    except ValueError:
        value = 0.0
    if text != "max" and not 0.1 <= value <= 100.0:
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is not a speed from 0.1 to 100, or max")
    return value


def port(text: str) -> int:
    """A port that a program may listen at, or 0 for any that is free."""
    value = whole(text)
    if not 0 <= value <= 65_535:
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is not a port from 0 to 65535; 0 takes one that is free")
    return value
