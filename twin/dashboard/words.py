"""What is said in JSON: values, and refusals that name what is wrong and what is allowed."""

from __future__ import annotations

import json
from typing import Any

SHOWN = 80
"""So many characters of a wrong value are repeated."""


def refusal(message: str, key: str = "", value: str = "", allowed: str = "") -> dict[str, Any]:
    """The body of an answer that says no."""
    return {"error": {"message": message, "key": key, "value": value[:SHOWN], "allowed": allowed}}


def encoded(value: Any) -> str:
    """As JSON. Raises `ValueError` for what JSON cannot hold: NaN, infinity."""
    return json.dumps(value, allow_nan=False, separators=(",", ":"))
