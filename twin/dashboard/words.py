"""What is said in JSON: values, and refusals that name what is wrong and what is allowed."""

from __future__ import annotations

import json
import logging
from typing import Any

SHOWN = 80
"""So many characters of a wrong value are repeated."""
SAID = 20
"""So many mistakes are said in the log; whoever provokes them is not to fill it."""
_LINE = 300
log = logging.getLogger("twin.dashboard")
_said = 0


def refusal(message: str, key: str = "", value: str = "", allowed: str = "") -> dict[str, Any]:
    """The body of an answer that says no."""
    return {"error": {"message": message, "key": key, "value": value[:SHOWN], "allowed": allowed}}


def encoded(value: Any) -> str:
    """As JSON. Raises `ValueError` for what JSON cannot hold: NaN, infinity."""
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def mistaken(where: str, error: BaseException) -> None:
    """Say in one line of the log what should not have happened, for the first few times."""
    global _said
    _said += 1
    if _said > SAID:
        return
    trace, place = error.__traceback__, ""
    while trace is not None:
        place = f" ({trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno})"
        trace = trace.tb_next
    line = ascii(f"{where}: {type(error).__name__}: {error}")[1:-1][:_LINE]
    log.warning("%s%s%s", line, place, "; more of these are not said" if _said == SAID else "")
