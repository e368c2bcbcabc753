"""How far a machine and its twin parted in a run in shadow mode: from its log, while it goes on or afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hardware.interface import Channel
from twin.record.seamformat import Cycle
from twin.shadow import acted_channel, twin_channel


@dataclass(frozen=True)
class Gap:
    """One sensor over a stretch of a run: readings and what was expected, in millicelsius.

    `now` are the last values (None where there is none); `rms` and `worst` are of the reading less the twin's, over
    `samples` cycles in which both are known; `bias` is its mean. All are None when there was no such cycle.
    """

    sensor: str
    reading: int | None
    twin: int | None
    acted: int | None
    samples: int
    rms: float | None
    worst: int | None
    bias: float | None


def gaps(channels: Sequence[Channel], cycles: Sequence[Cycle]) -> list[Gap]:
    """The gap of every sensor that has a twin in `channels`, over `cycles`. None has one in a run without shadow."""
    places = {channel.name: place for place, channel in enumerate(channels)}
    names = [
        name.removesuffix("_temp_millicelsius") for name in places
        if name.endswith("_temp_millicelsius") and twin_channel(name.removesuffix("_temp_millicelsius")) in places
    ]  # fmt: skip
    rows = [cycle.readings.values for cycle in cycles]
    return [_gap(name, places, rows) for name in names]


def _gap(name: str, places: dict[str, int], rows: Sequence[Sequence[int | None]]) -> Gap:
    here, there, acted = (places[each] for each in
                          (f"{name}_temp_millicelsius", twin_channel(name), acted_channel(name)))  # fmt: skip
    pairs = [(row[here], row[there]) for row in rows]
    apart = [shown - expected for shown, expected in pairs if shown is not None and expected is not None]
    last = rows[-1] if rows else ()
    reading, twin, now = (last[place] if rows else None for place in (here, there, acted))
    if not apart:
        return Gap(name, reading, twin, now, 0, None, None, None)
    rms = (sum(each * each for each in apart) / len(apart)) ** 0.5
    return Gap(name, reading, twin, now, len(apart), rms, max(apart, key=abs), sum(apart) / len(apart))
