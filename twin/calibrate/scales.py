"""Numbers of a recording in the units of the twin, and whether those units can be right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from twin.calibrate import cells
from twin.calibrate.headings import UNITS, Quantity
from twin.calibrate.recording import COLDEST_CELSIUS, HOTTEST_CELSIUS, KELVIN_AT_0_CELSIUS
from twin.kernels import Floats

GLITCH_SHARE = 0.05
"""Readings out of range are left out as glitches when they are fewer than this share, else the unit is wrong."""
FULL_LOAD_TOLERANCE = 1.05
"""Loads a little above all are the rounding of samplers and count as all."""
MOST_WATTS = 10_000.0
MOST_RPM = 100_000.0
_SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3_600.0}
_POWER = {"kW": 1e3, "W": 1.0, "mW": 1e-3, "uW": 1e-6}


@dataclass(frozen=True)
class Scaled:
    """Values in the unit of the twin; `why` says what is wrong with the one at `place` (empty: nothing is).

    `why` and `note` may hold {role} and {name}, for the role and the name of the column.
    """

    values: Floats
    why: str = ""
    place: int = 0
    note: str = ""


@dataclass(frozen=True)
class Times:
    """Seconds, what is wrong (place and reason), and the unit that numbers were taken in (empty: no numbers)."""

    values: Floats
    wrong: tuple[tuple[int, str], ...]
    unit: str = ""


def temperatures(values: Floats, unit: str) -> Scaled:
    """Degrees Celsius, NaN for glitches. Without a unit in the name they are taken as Celsius, and looked at."""
    if unit == "K":
        celsius = values - KELVIN_AT_0_CELSIUS
    elif unit == "F":
        celsius = (values - 32.0) / 1.8
    elif unit == "mC":
        celsius = values / 1_000.0
    else:
        celsius = values
    known = np.isfinite(celsius)
    with np.errstate(invalid="ignore"):
        out = known & ((celsius < COLDEST_CELSIUS) | (celsius > HOTTEST_CELSIUS))
    count = int(np.count_nonzero(out))
    if count == 0:
        return Scaled(celsius)
    place = int(np.flatnonzero(out)[0])
    if count > max(1.0, GLITCH_SHARE * np.count_nonzero(known)):
        seen = float(np.median(values[out]))
        said = unit or "C"
        likely, word = "", ""
        if said != "K" and 200.0 <= seen <= 430.0:
            likely, word = "K", "kelvin"
        elif said != "F" and 100.0 <= seen <= 300.0:
            likely, word = "F", "degrees Fahrenheit"
        elif said != "mC" and 5_000.0 <= abs(seen) <= 200_000.0:
            likely, word = "mC", "thousandths of a degree"
        elif said != "C" and 0.0 <= seen <= 120.0:
            likely, word = "C", "degrees Celsius"
        mend = (
            f"that looks like {word}: --map {{role}}={{name}}:{likely}" if likely else "mend the column, or map another"
        )
        shown = f"{said} is {celsius[place]:.4g} C" if said != "C" else "C"
        return Scaled(
            celsius,
            f"{shown} ({count} cells), and allowed are {COLDEST_CELSIUS:g} to {HOTTEST_CELSIUS:g} C; {mend}",
            place,
        )
    cleaned = celsius.copy()
    cleaned[out] = np.nan
    first = f"the first is {celsius[place]:g} C"
    return Scaled(
        cleaned, note=f"{count} of {len(values)} temperatures cannot be ({first}) and are left out as glitches"
    )


def load_shares(values: Floats, unit: str) -> Scaled:
    """Loads as shares, 0 to 1. Without a unit in the name they are percent, unless none is above 1."""
    base, _, divisor = unit.partition("/")
    note = ""
    known = np.isfinite(values)
    if not base:
        base = "%"
        if float(np.max(values[known])) <= 1.0:
            base, note = (
                "1",
                "no load is above 1, so they are taken as shares from 0 to 1; --map {role}={name}:% takes percent",
            )
    full = {"%": 100.0, "1": 1.0, "ppm": 1e6}[base] * float(divisor or 1)
    shares = values / full
    with np.errstate(invalid="ignore"):
        out = known & ((shares < 0.0) | (shares > FULL_LOAD_TOLERANCE))
    if np.any(out):
        place = int(np.flatnonzero(out)[0])
        most = float(np.max(values[known]))
        shown = {"%": "% ", "1": "as a share ", "ppm": "ppm "}[base]
        if float(values[place]) < 0.0:
            mend = "mend the cell, or leave it empty"
        elif base == "1":
            mend = "that looks like percent: --map {role}={name}:%"
        else:
            cores = int(np.ceil(most / full - 1e-9)) * int(divisor or 1)
            mend = (f"is it a sum over cores? then divide by their number: --map {{role}}={{name}}:%/{cores}"
                    if cores <= 1_024 else "that is another unit: --map {role}={name}:ppm")  # fmt: skip
        return Scaled(
            shares, f"{shown}is no load ({int(np.count_nonzero(out))} cells); allowed are 0 to {full:g}; {mend}", place
        )
    return Scaled(np.clip(shares, 0.0, 1.0), note=note)


def plain(quantity: Quantity, values: Floats, unit: str) -> Scaled:
    """Powers in watts or fan speeds in RPM."""
    factor = _POWER.get(unit, 1.0) if quantity == "power" else 1.0
    most = MOST_WATTS if quantity == "power" else MOST_RPM
    word, name = ("power", "W") if quantity == "power" else ("fan speed", "rpm")
    scaled = values * factor
    with np.errstate(invalid="ignore"):
        out = np.isfinite(scaled) & ((scaled < 0.0) | (scaled > most))
    if not np.any(out):
        return Scaled(scaled)
    place = int(np.flatnonzero(out)[0])
    mend = "mend the cell, or leave it empty"
    if quantity == "power" and float(scaled[place]) > most:
        likely = "uW" if float(np.nanmedian(scaled)) > 1e6 else "mW"
        mend = f"that looks like {'micro' if likely == 'uW' else 'milli'}watts: --map {{role}}={{name}}:{likely}"
    count = int(np.count_nonzero(out))
    return Scaled(
        scaled, f"{unit or name} is no {word} ({count} cells); allowed are 0 to {most:g} {name}; {mend}", place
    )


def times(texts: Sequence[str], unit: str, decimal_comma: bool) -> Times:
    """Times in seconds from numbers, times of day, or dates; whatever the first cell is, the others must be."""
    first = next((text for text in texts if not cells.is_missing(text)), "")
    if cells.clock_seconds(first) is not None:
        return _read(
            texts, "is no time of day like that of the first sample; mend the cell", cells.clock_seconds, wrap=True
        )
    if cells.date_seconds(first, day_first=False) is not None or cells.date_seconds(first, day_first=True) is not None:
        numbers = [text.replace("-", "/").split("/") for text in texts]
        day_first = any(len(parts) > 1 and parts[0].isdigit() and 12 < int(parts[0]) <= 31 for parts in numbers)
        return _read(
            texts, "is no date and time like that of the first sample; mend the cell",
            lambda text: cells.date_seconds(text, day_first),
        )  # fmt: skip
    said = unit

    def value(text: str) -> float | None:
        nonlocal said
        parsed = cells.number(text, decimal_comma)
        if parsed is None or (parsed[1] and parsed[1] not in UNITS["time"]):
            return None
        said = said or (UNITS["time"][parsed[1]] if parsed[1] else "")
        return parsed[0]

    found = _read(texts, "is no time: a number, hh:mm:ss or a date is needed; mend the cell", value)
    if found.wrong:
        return found
    if not said:
        # Seconds since 1970, or thousandths, millionths and so on of them.
        size = abs(float(found.values[0])) if len(found.values) else 0.0
        said = "ns" if size > 1e17 else "us" if size > 1e14 else "ms" if size > 1e11 else "s"
    return Times((found.values - found.values[0]) * _SECONDS[said] if said != "s" else found.values, (), said)


def _read(texts: Sequence[str], why: str, value, wrap: bool = False) -> Times:  # type: ignore[no-untyped-def]
    seconds, wrong = [], []
    for place, text in enumerate(texts):
        found = None if cells.is_missing(text) else value(text)
        if found is None or not np.isfinite(found):
            wrong.append((place, why))
        else:
            seconds.append(found)
    if wrong:
        more = len(wrong) - 1
        first = (wrong[0][0], why + (f" ({more} cells more are wrong)" if more else ""))
        return Times(np.zeros(len(texts)), (first,))
    return Times(np.array(cells.unwrapped(seconds, texts) if wrap else seconds), ())
