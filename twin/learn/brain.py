"""Everything that learns, as one: a forecast, an eye for the unusual, and a policy over the same state."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from twin.control.view import View
from twin.kernels import Stream
from twin.learn import replay
from twin.learn.anomaly import AnomalyDetector
from twin.learn.checkpoint import Array, CheckpointError, load, weights_digest
from twin.learn.evidence import Evidence, is_normal
from twin.learn.facts import fill_facts, new_facts
from twin.learn.features import FEATURES, Features
from twin.learn.forecast import UNKNOWN, Predictor
from twin.learn.network import is_finite
from twin.learn.policy import Policy
from twin.learn.quantised import Quantised
from twin.scenario import Scenario

PPM = 1e-6
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


class Brain:
    """Sees views and rewards, knows no command. Begins with the checkpoint's weights, or draws them from the seed."""

    def __init__(self, scenario: Scenario, checkpoint: Path | None) -> None:
        """Raises `CheckpointError` for a file that is none, or of another machine or other settings."""
        machine, settings = scenario.machine, scenario.learn
        self._facts = new_facts(len(machine.sensors), len(machine.fans))
        self._features = Features(settings, len(machine.sensors))
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
        self._loads = loads
        self._evidence = Evidence(machine)
        signals = len(self._evidence.names)
        self._names = (*self._evidence.names, *(f"{sensor.name} forecast" for sensor in machine.sensors))
        self._residuals = np.zeros(len(self._names))
        self._usable = np.zeros(len(self._names), dtype=np.int64)
        self._signals = self._residuals[:signals], self._usable[:signals]
        self._foretold, self._foretold_usable = self._residuals[signals:], self._usable[signals:]
        self._usable_sensors = self._usable[: len(machine.sensors)]
        self._detector = AnomalyDetector(len(self._names), scenario.seed)
        self._policy = Policy(settings, scenario.seed)
        self._learning = settings.learning
        self._troubles = 0
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
        self._features.fill(self._facts, self._state)
        self._predictor.see(
            [UNKNOWN if temp is None else temp / 1_000 for temp in view.temps_millicelsius], self._shares(view)
        )
        self._evidence.fill(self._facts, *self._signals)
        self._foretold[:] = self._predictor.residual
        self._foretold_usable[:] = self._usable_sensors
        alarm = self._detector.see(
            self._state, self._residuals, self._usable, is_normal(view), view.fresh, self._learning
        )
        if self._learning and executed is not None and reward_micro is not None:
            self._policy.learn(executed, reward_micro, self._state, False)
        action = self._choose()
        troubles = self.troubles
        broken = "a step of learning led nowhere, and was taken back" if troubles > self._troubles else ""
        self._troubles = troubles
        strange = f"an alarm over {self._detector.cause(self._names)}" if alarm else ""
        share = min(self._detector.score / max(self._detector.threshold, 1e-9), MOST_MICRO * PPM)
        return Thought(action, strange, broken, int(share / PPM))

    def _shares(self, view: View) -> list[float]:
        """What heats each processor: the processor's load, and of the graphics the share of their largest power."""
        load, power = view.cpu_load_ppm, view.gpu_power_microwatts
        return [
            UNKNOWN if load is None else load * PPM,
            UNKNOWN if power is None else power / self._gpu_microwatts,
        ][: self._loads]

    def _choose(self) -> int:
        if self._quantised is None:
            return self._policy.choose(self._state)
        values = self._quantised.forward(self._state)
        if not is_finite(values, 0, len(values)):
            # As the policy does with its own.
            self._policy.counters[replay.REFUSED] += 1
        return self._policy.best_of(values)

    def commanded(self, fan_pwm: tuple[int, ...]) -> None:
        """Tell what the fans were told, in the order of the machine, so that their speed can be expected."""
        self._evidence.commanded(fan_pwm)

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

    def digest(self) -> str:
        """BLAKE2b-256 of all weights."""
        return weights_digest([self._policy.weights(), self._detector.weights(), *self._predictor.networks()])

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
