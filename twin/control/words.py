"""What is said of a command that was changed."""

from __future__ import annotations

from collections.abc import Mapping


def changes(asked: Mapping[str, object], given: Mapping[str, int]) -> tuple[str, ...]:
    """What was asked and what is given instead, in words, for each channel where that is not the same."""
    # What is asked may be anything, even something that cannot be compared: only ints are.
    return tuple(
        f"{name} {short(asked[name]) if name in asked else 'nothing'} -> {value}"
        for name, value in given.items()
        if type(asked.get(name)) is not int or asked[name] != value
    )


def short(value: object) -> str:
    """A value in a few words that are the same on every machine: numbers and text as they are, other things by type."""
    if type(value) is int and not -(1 << 63) <= value < 1 << 63:
        return f"an int of {value.bit_length()} bits"
    return repr(value)[:80] if type(value) in (int, float, bool, str, type(None)) else type(value).__name__
