"""What a controller sees and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

SOURCES = ("rules", "pid", "neural", "shield", "failsafe")
NOTHING = -(1 << 62)
"""Stands for None where integers are in arrays."""


class View(NamedTuple):
    """One control cycle's picture of the machine; integers, and None for what is not known.

    `temps_millicelsius` has one entry a sensor: its reading, less the known offset, where it is believed.
    `worst_millicelsius` is the hotter of that and what the thermal model expects, None where the reading is not
    believed; `expected_millicelsius` is the model alone, None where it cannot judge. Headrooms are limit minus worst.
    `unaided_millicelsius` is what the model would expect if no temperature sensor told it anything, not even how warm
    the room is: a witness that no temperature sensor can sway. None without the model.
    `nodes_millicelsius` is every node of the model, measured or not, and the room last, rounded up; empty where the
    model does not run.
    `frames_counted_millihertz` is the frame rate over the last second or so, made of the count of frames and not of
    what the application says about its rate. `unchecked` names the sensors that the model cannot judge, because their
    processor's power is not known. `failsafe` is empty or says why the machine must be cooled at full power now.
    `fresh` says that nothing was seen just before, at a start or after a suspend: what takes two counters is not known.
    """

    cycle: int
    time_ns: int
    dt_ns: int
    sensors: tuple[str, ...]
    temps_millicelsius: tuple[int | None, ...]
    worst_millicelsius: tuple[int | None, ...]
    limits_millicelsius: tuple[int, ...]
    expected_millicelsius: tuple[int | None, ...]
    unaided_millicelsius: tuple[int | None, ...]
    nodes_millicelsius: tuple[int, ...]
    fans: tuple[str, ...]
    fan_rpm: tuple[int | None, ...]
    fan_trouble: str
    cpu_load_ppm: int | None
    cpu_power_microwatts: int | None
    cpu_clock_kilohertz: int | None
    gpu_load_ppm: int | None
    gpu_power_microwatts: int | None
    gpu_clock_kilohertz: int | None
    memory_used_ppm: int | None
    frame_rate_millihertz: int | None
    frame_latency_microseconds: int | None
    frames_counted_millihertz: int | None
    game_state_code: int | None
    words_offered_per_second: int | None
    suspicion: str
    unchecked: str
    failsafe: str
    fresh: bool = False

    def headroom_millicelsius(self, sensors: tuple[int, ...] | None = None) -> int | None:
        """The smallest headroom among these sensors (their places; None: all); None if one of them is not known."""
        limits, worst = self.limits_millicelsius, self.worst_millicelsius
        smallest: int | None = None
        for i in range(len(limits)) if sensors is None else sensors:
            hot = worst[i]
            if hot is None:
                return None
            room = limits[i] - hot
            if smallest is None or room < smallest:
                smallest = room
        return smallest


class Decision(NamedTuple):
    """What a controller wants: an action's name, who decided, why in words, and a value for each output channel."""

    action: str
    source: str
    reason: str
    command: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Learned:
    """What a controller that learns tells about a cycle.

    `proposed` and `executed` are actions; `reward_micro` is what the cycle before was worth, in millionths (None in the
    first); `forecast_millicelsius` has an entry a sensor, five steps ahead, None where there is none; `anomaly_micro`
    is how unusual it looks, in millionths of the alarm's threshold; `weights` is the digest of all learned weights.
    """

    proposed: str
    executed: str
    authority_percent: int
    reward_micro: int | None
    forecast_millicelsius: tuple[int | None, ...]
    anomaly_micro: int | None
    weights: str
    note: str


class Controller(Protocol):
    """Anything that decides. It is called once a control cycle, with the same view in simulation and on hardware."""

    def decide(self, view: View) -> Decision:
        """The wanted command for this cycle. What it returns passes the shield; what it raises is a failsafe."""


@runtime_checkable
class Learner(Controller, Protocol):
    """A controller that is told what became of its decision."""

    def executed(self, values: Mapping[str, int], held_back: bool) -> Learned:
        """`values` were applied in the cycle of the last `decide`; `held_back` says that the shield changed them."""
