"""Everything that learns, as one: a forecast, an eye for the unusual, and a policy over the same state."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from twin.control.view import View
from twin.kernels import Floats, Integers, Stream, kernel
from twin.learn import replay
from twin.learn.anomaly import AnomalyDetector, judge
from twin.learn.checkpoint import Array, CheckpointError, WeightsDigest, load
from twin.learn.evidence import Evidence, fill_evidence, is_normal
from twin.learn.facts import CPU_LOAD, FIRST_SENSOR, GPU_POWER, TEMPS, fill_facts, new_facts
from twin.learn.features import FEATURES, Features, fill_features
from twin.learn.forecast import CLOCK, ERROR, FIRST_AHEAD, RUN, STRIDE, TEMPERATURE_MAX, UNKNOWN, Predictor, unexpected
from twin.learn.network import is_finite
from twin.learn.policy import Policy
from twin.learn.quantised import Quantised
from twin.learn.replay import choose, learn
from twin.scenario import ACTIONS, Scenario

PPM = 1e-6
NOBODY = -1
Arrays = tuple[Any, ...]
MOST_MICRO = 10**12
"""A score is told up to a million times the threshold."""


class Thought(NamedTuple):
    """What a cycle brought: the action's number, and why it is not to be followed.

    `strange` says what is unusual about the state, `broken` what went wrong in the learner; both are empty as a rule.
    """

    action: int
    strange: str
    broken: str
    anomaly_micro: int


@kernel
def _look_back(facts: Floats, microwatts: float, memory: Floats, seen: Floats) -> None:
    """What the forecast sees: temperatures, and what heats each processor.

    That is the processor's load, and of the graphics the share of their largest power.
    """
    sensors = len(memory)
    for i in range(sensors):
        seen[i] = facts[FIRST_SENSOR + TEMPS * sensors + i] / 1_000
    if len(seen) > sensors:
        seen[sensors] = facts[CPU_LOAD] * PPM
    if len(seen) > sensors + 1:
        seen[sensors + 1] = facts[GPU_POWER] / microwatts


@kernel
def _glance(plan: Integers, memory: Floats, ring: Floats, seen: Floats, residuals: Floats) -> None:
    """How unexpected each temperature is, in units of what is usual: what `see_all` will find. Changes nothing else."""
    stride, rows = plan[STRIDE], ring.shape[1]
    before = (plan[CLOCK] - stride) % rows
    for s in range(len(memory)):
        residuals[s] = 0.0
        if seen[s] > 0.0 and seen[s] <= TEMPERATURE_MAX and memory[s, RUN] + 1.0 > stride:
            residuals[s] = unexpected(seen[s] - ring[s, before, FIRST_AHEAD], memory[s])


@kernel
def _think(
    facts: Floats, ranges: Floats, evidence: Arrays, forecast: Arrays, microwatts: float, detector: Arrays,
    policy: Arrays, state: Floats, residuals: Floats, usable: Integers, normal: bool, fresh: bool,
    learning: bool, executed: int, reward_micro: int, chooses: bool,
) -> int:  # fmt: skip
    """One cycle of everything that decides the next action, in one call; that action, where it `chooses`.

    `executed` is the action that earned `reward_micro` (NOBODY: none did).
    """
    plan, memory, ring, _, _, _, _, seen = forecast
    sensors = len(memory)
    fill_features(facts, ranges, sensors, state)
    _look_back(facts, microwatts, memory, seen)
    sensor_cells, fan_cells, cpu_cells, clocks = evidence
    fill_evidence(facts, sensor_cells, fan_cells, cpu_cells, clocks, residuals, usable)
    first = len(residuals) - sensors
    _glance(plan, memory, ring, seen, residuals[first:])
    for i in range(sensors):
        usable[first + i] = usable[i]
    eye_shape, eye, cells = detector
    judge(eye_shape, eye, cells, state, residuals, usable, normal, fresh, learning)
    shape, online, target, rows, pending, allowed, counters, settings, keys = policy
    if executed != NOBODY:
        learn(
            shape, online, target, rows, pending, allowed, counters, settings, keys, state, executed, reward_micro,
            False,
        )  # fmt: skip
    return choose(shape, online, pending, state, allowed, counters, settings, keys) if chooses else NOBODY


class Brain:
    """Sees views and rewards, knows no command. Begins with the checkpoint's weights, or draws them from the seed."""

    def __init__(self, scenario: Scenario, checkpoint: Path | None) -> None:
        """Raises `CheckpointError` for a file that is none, or of another machine or other settings."""
        machine, settings = scenario.machine, scenario.learn
        self._facts = new_facts(len(machine.sensors), len(machine.fans))
        self._ranges = Features(settings, len(machine.sensors)).ranges
        self._state = np.zeros(len(FEATURES))
        loads = 0 if settings.predictor == "temperatures" else 1 + machine.gpu.enabled
        gpu = machine.gpu.node if machine.gpu.enabled else ""
        self._predictor = Predictor(
            len(machine.sensors),
            loads,
            Stream(scenario.seed, "learn.forecast"),
            settings.predict_every_cycles,
            [int(sensor.node == gpu and loads > 1) for sensor in machine.sensors],
        )
        self._gpu_microwatts = machine.gpu.power_limit_watts * 1e6
        self._evidence = Evidence(machine)
        self._names = (*self._evidence.names, *(f"{sensor.name} forecast" for sensor in machine.sensors))
        self._residuals = np.zeros(len(self._names))
        self._usable = np.zeros(len(self._names), dtype=np.int64)
        self._detector = AnomalyDetector(len(self._names), scenario.seed)
        self._policy = Policy(settings, scenario.seed)
        self._learning = settings.learning
        self._troubles = 0
        self._seen = False
        self._digest = WeightsDigest([self._policy.weights(), self._detector.weights(), *self._predictor.networks()])
        if checkpoint is not None:
            saved = load(checkpoint)
            try:
                self.restore(saved.arrays)
            except ValueError as error:
                raise CheckpointError(checkpoint, f"does not fit this scenario: {error}") from error
        self._policy.freeze(not self._learning)
        self._predictor.freeze(not self._learning)
        self._quantised: Quantised | None = None
        if settings.quantised:
            # What was met lately says which values are common; the corners, which there can be.
            stored = self._policy.rows[: int(self._policy.counters[replay.STORED]), : len(FEATURES)]
            self._quantised = Quantised.of(self._policy.shape, self._policy.online, np.concatenate((stored, _CORNERS)))

    def think(self, view: View, executed: int | None, reward_micro: int | None) -> Thought:
        """Learn what the last cycle's executed action (None: there was none) was worth, and choose the next."""
        fill_facts(view, self._facts)
        action = _think(
            self._facts,
            self._ranges,
            self._evidence.operands,
            self._predictor.operands,
            self._gpu_microwatts,
            self._detector.operands,
            self._policy.operands,
            self._state,
            self._residuals,
            self._usable,
            is_normal(view),
            view.fresh,
            self._learning,
            NOBODY if executed is None or reward_micro is None or not self._learning else executed,
            reward_micro or 0,
            self._quantised is None,
        )
        self._seen = True
        if self._quantised is not None:
            values = self._quantised.forward(self._state)
            if not is_finite(values, 0, len(values)):
                # As the policy does with its own.
                self._policy.counters[replay.REFUSED] += 1
            action = self._policy.best_of(values)
        troubles = self.troubles
        broken = "a step of learning led nowhere, and was taken back" if troubles > self._troubles else ""
        self._troubles = troubles
        detector = self._detector
        strange = f"an alarm over {detector.cause(self._names)}" if detector.alarm else ""
        share = min(detector.score / max(detector.threshold, 1e-9), MOST_MICRO * PPM)
        return Thought(action, strange, broken, int(share / PPM))

    def commanded(self, fan_pwm: tuple[int, ...]) -> None:
        """Tell what the fans were told, in the order of the machine, so that their speed can be expected.

        The forecast learns now: no command waits for it.
        """
        self._evidence.commanded(fan_pwm)
        if self._seen:
            self._seen = False
            self._predictor.learn()

    @property
    def troubles(self) -> int:
        """How often something that is no number was refused, or a step of learning was taken back."""
        counters = self._policy.counters
        return counters.item(replay.ROLLBACKS) + counters.item(replay.REFUSED) + self._detector.rollbacks

    @property
    def forecast_millicelsius(self) -> tuple[int | None, ...]:
        """For each sensor what it will read in five steps; None where there is no forecast."""
        return tuple(
            [None if row[-1] == UNKNOWN else int(row[-1] * 1_000) for row in self._predictor.forecast.tolist()]
        )

    def insight(self) -> dict[str, dict[str, float | None]]:
        """What it thinks now, for people: each action's Q-value, and how wrong each part is. Changes nothing.

        `policy`: Huber's error over the newest experience. `eye`: the mean squared error over the features. `forecast`:
        the mean squared error (square kelvin) of the sensor that is forecast worst, slowly followed.
        """
        values = self._policy.q_values(self._state).tolist()
        memory = self._predictor.operands[1]
        return {
            "q_values": dict(zip(ACTIONS, values, strict=True)),
            "losses": {
                "policy": self._policy.loss(),
                "eye": self._detector.error,
                "forecast": max(memory[:, ERROR].tolist()),
            },
        }

    def digest(self) -> str:
        """BLAKE2b-256 of all weights, as `WeightsDigest` has it: policy, eye, then the forecast's."""
        return self._digest()

    def arrays(self) -> dict[str, Array]:
        """Everything that decides what comes next, for a checkpoint: copies."""
        found: dict[str, Array] = {}
        for part, arrays in self._parts().items():
            found |= {f"{part}.{name}": array.copy() for name, array in arrays.items()}
        return found

    def _parts(self) -> dict[str, Mapping[str, Array]]:
        return {
            "policy": self._policy.arrays(),
            "anomaly": self._detector.arrays(),
            "forecast": {str(i): array for i, array in enumerate(self._predictor.weights())},
        }

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """Go on from what `arrays` gave, at the beginning of a run. Raises `ValueError` for what does not fit."""
        given: dict[str, dict[str, Array]] = {part: {} for part in self._parts()}
        for name, array in arrays.items():
            part, _, rest = name.partition(".")
            if part not in given:
                raise ValueError(f"there is no place for {name}; known are {', '.join(given)}")
            given[part][rest] = array
        self._policy.restore(given["policy"])
        self._detector.restore(given["anomaly"])
        forecast = given["forecast"]
        names = [str(place) for place in range(len(forecast))]
        if forecast.keys() != set(names):
            raise ValueError(f"forecasts called {', '.join(sorted(forecast))}; needed are {', '.join(names)}")
        self._predictor.restore([forecast[name] for name in names])
        self._policy.freeze(not self._learning)
        # A run begins: what came before it is not what came just before its first cycle.
        self._policy.forget()
        self._predictor.forget()
        self._detector.forget()
        self._troubles = self.troubles


_CORNERS = np.array([[float(corner >> i & 1) for i in range(len(FEATURES))] for corner in range(1 << len(FEATURES))])
