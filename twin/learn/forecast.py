"""The next five temperatures of each sensor, learned while they come, and what they would be under a load to come.

Two kinds. `temperatures`: a Holt forecast, corrected by a network 10 -> 16 -> 8 -> 5 that sees the last ten
temperatures. `loads`: a linear forecast from the last ten temperatures, the last ten loads and the Holt forecast; and,
for a load that is said to come, a second one that also takes five loads to come, corrected by a network
25 -> 16 -> 8 -> 5. Each forecast is let through by a gate, which is open as far as the forecast was better than the
last temperature (persistence) lately: what does not help is not used. Nothing later than the newest sample has a part.

Samples come every cycle and a step is `stride` cycles: the ten samples are `stride` cycles apart, and every cycle
forecasts. Temperatures are kelvin (or celsius above 0), loads about 0..1.
"""

from __future__ import annotations  # noqa: I001

from collections.abc import Sequence

import numpy as np

from twin.kernels import Floats, Integers, Stream, kernel
from twin.learn.holt import next_level, next_trend, trend_sum
from twin.learn.linear import linear_forecast, linear_learn, linear_length, reset_covariance
from twin.learn.network import (
    PARAMETERS, backward, clear_gradient, descend, errors_at, forward, inputs_at, keep, new_network, new_shape,
    outputs_at, weights_of,
)  # fmt: skip

BEHIND = 10
AHEAD = 5
UNKNOWN = -1.0
"""A temperature or a load that is not known; anything else out of range is not known either."""
TEMPERATURE_MAX = 10_000.0
LOAD_MAX = 1_000.0

FORGETTING_BLIND = 0.9995
FORGETTING_KNOWING = 0.998
RATE = 0.001
GRADIENT_MAX = 10.0
GATE_KEPT = 0.999
"""A gate looks back about a thousand steps."""
GATE_EVIDENCE = 40.0
"""A gate begins to open at this share of explained squares times steps judged, and is open at twice as much."""
SLOW, FAST = 0.005, 0.01
"""How fast mean and spread, and the size of a step, are followed."""
ERROR_MAX = 2.0
INPUT_MAX = 3.0
SMALLEST = 0.05
"""No scale is below this many kelvin."""
CORRECTION_MAX = 1_000.0
# plan: what does not change but for the clock. The loads that the sensors see follow.
CLOCK, STRIDE, LOADED, LOAD_OF = range(4)
# memory, a row for each sensor
RUN, LOAD_RUN, FIRST, MEAN, SPREAD, STEP, ERROR, SURPRISE, RESIDUAL, JUDGED, KNOWING_JUDGED, ROLLBACKS = range(12)
BLIND = 12
"""Squares of what came, products with the forecast, squares of the forecast: five each."""
KNOWING = BLIND + 3 * AHEAD
"""Squares of what came, of the linear error, of the error after the network: five each."""
FORECAST = KNOWING + 3 * AHEAD
MEMORY = FORECAST + AHEAD
# ring, a row for each cycle of the last 15 steps
TEMPERATURE, LOAD, LEVEL, TREND, FIRST_AHEAD, MADE = range(6)
RING = MADE + AHEAD
STEPS_KEPT = BEHIND + AHEAD
# linear inputs: level, nine differences, one, two of Holt's, ten loads, five to come
HOLT_AT, LOADS_AT, COMING_AT = BEHIND + 1, BEHIND + 3, 2 * BEHIND + 3
BLIND_INPUTS, KNOWING_INPUTS = COMING_AT, COMING_AT + AHEAD
BLIND_CELLS = BLIND_INPUTS * (BLIND_INPUTS + AHEAD)
# scratch
X, GAIN, BASE, EXTRA, LEFT, COMING = 0, 28, 56, 61, 66, 71
SCRATCH = COMING + AHEAD


@kernel
def fill_inputs(ring: Floats, row: int, stride: int, memory: Floats, x: Floats, loaded: bool) -> None:
    """The linear inputs as of ring row `row`, without loads to come."""
    rows = ring.shape[0]
    newest = ring[row, TEMPERATURE]
    x[0] = (newest - memory[FIRST]) / 10.0
    later = newest
    at = row
    for i in range(1, BEHIND):
        at -= stride
        if at < 0:
            at += rows
        sample = ring[at, TEMPERATURE]
        x[i] = later - sample
        later = sample
    x[BEHIND] = 1.0
    x[HOLT_AT] = newest - ring[row, LEVEL]
    x[HOLT_AT + 1] = ring[row, TREND]
    if loaded:
        at = row
        for i in range(BEHIND):
            x[LOADS_AT + i] = ring[at, LOAD]
            at -= stride
            if at < 0:
                at += rows


@kernel
def limited(value: float, most: float) -> float:
    """`value`, not beyond -most..most."""
    return min(max(value, -most), most)


@kernel
def network_output(
    shape: Integers, net: Floats, memory: Floats, x: Floats, temperature: float, loaded: bool, out: Floats
) -> None:
    """The network's correction in kelvin for the linear inputs `x` (with loads to come where `loaded`)."""
    at = inputs_at(shape)
    spread = max(np.sqrt(memory[SPREAD]), SMALLEST)
    step = max(np.sqrt(memory[STEP]), SMALLEST)
    net[at] = limited((temperature - memory[MEAN]) / spread, INPUT_MAX)
    for i in range(1, BEHIND):
        net[at + i] = limited(x[i] / step, INPUT_MAX)
    if loaded:
        for i in range(BEHIND + AHEAD):
            net[at + BEHIND + i] = limited(2.0 * x[LOADS_AT + i] - 1.0, INPUT_MAX)
    forward(shape, net)
    scale = max(np.sqrt(memory[ERROR]), SMALLEST)
    at = outputs_at(shape)
    for h in range(AHEAD):
        value = scale * net[at + h]
        out[h] = value if abs(value) <= CORRECTION_MAX else 0.0


@kernel
def network_learn(shape: Integers, net: Floats, memory: Floats, left: Floats, rate: float) -> None:
    """One step of the network that was just asked, towards `left` (kelvin), the error of what it corrects."""
    scale = max(np.sqrt(memory[ERROR]), SMALLEST)
    out = outputs_at(shape)
    at = errors_at(shape)
    clear_gradient(shape, net)
    for h in range(AHEAD):
        net[at + h] = limited(net[out + h] - left[h] / scale, ERROR_MAX)
    backward(shape, net)
    if not descend(shape, net, rate, GRADIENT_MAX):
        memory[ROLLBACKS] += 1.0


@kernel
def opening(explained: float, judged: float) -> float:
    """How far a gate is open, 0..1, when a forecast explained that share of the squares, over so many steps.

    What explains nothing explains about 1/judged by chance.
    """
    if judged <= 0.0:
        return 0.0
    needed = GATE_EVIDENCE / judged
    return min(max((explained - needed) / needed, 0.0), 1.0)


@kernel
def blind_gate(memory: Floats, h: int) -> float:
    """What the blind forecast of step h is multiplied with: the best scale lately, as far as there is evidence."""
    came, product, square = memory[BLIND + h], memory[BLIND + AHEAD + h], memory[BLIND + 2 * AHEAD + h]
    if not (product > 0.0 and came > 0.0 and square > 0.0):
        return 0.0
    explained = product / came * (product / square)
    return float(min(product / square, 1.0) * opening(explained, memory[JUDGED]))


@kernel
def is_still(x: Floats, loaded: bool, coming: bool) -> bool:
    """Whether no temperature and no load of the inputs differs from the others: then there is nothing to forecast."""
    for i in range(1, BEHIND):
        if x[i] != 0.0:
            return False
    if loaded:
        count = BEHIND + AHEAD if coming else BEHIND
        for i in range(1, count):
            if x[LOADS_AT + i] != x[LOADS_AT]:
                return False
    return True


@kernel
def knowing_forecast(
    memory: Floats, ring: Floats, row: int, linear: Floats, shape: Integers, net: Floats, scratch: Floats, out: Floats
) -> None:
    """Into `out` the forecast for the inputs in `scratch`, which hold loads to come, through its gates."""
    x = scratch[X : X + KNOWING_INPUTS]
    base = scratch[BASE : BASE + AHEAD]
    extra = scratch[EXTRA : EXTRA + AHEAD]
    newest = ring[row, TEMPERATURE]
    linear_forecast(linear[BLIND_CELLS:], KNOWING_INPUTS, x, base)
    network_output(shape, net, memory, x, newest, True, extra)
    still = is_still(x, True, True)
    for h in range(AHEAD):
        came = memory[KNOWING + h]
        plain = memory[KNOWING + AHEAD + h]
        corrected = memory[KNOWING + 2 * AHEAD + h]
        value = base[h]
        error = plain
        if corrected < plain:
            value += extra[h]
            error = corrected
        if still or not came > 0.0:
            value = 0.0
        else:
            value *= opening(1.0 - error / came, memory[KNOWING_JUDGED])
        out[h] = newest + (value if abs(value) <= CORRECTION_MAX else 0.0)


@kernel
def unexpected(surprise: float, memory: Floats) -> float:
    """By how many times its usual size a sample was `surprise` (kelvin) away from its forecast."""
    return float(surprise / max(np.sqrt(memory[SURPRISE]), SMALLEST))


@kernel
def see_one(
    memory: Floats, ring: Floats, row: int, stride: int, loaded: bool, linear: Floats, shape: Integers, net: Floats,
    scratch: Floats, part: float,
) -> None:  # fmt: skip
    """Learn from the newest sample of one sensor, which stands in ring row `row`, and forecast.

    `part` of a step has passed since it learned last; 0: it is not its turn.
    """
    rows = ring.shape[0]
    run = memory[LOAD_RUN] if loaded else memory[RUN]
    newest = ring[row, TEMPERATURE]
    x = scratch[X : X + KNOWING_INPUTS]
    gain = scratch[GAIN : GAIN + KNOWING_INPUTS]
    base = scratch[BASE : BASE + AHEAD]
    extra = scratch[EXTRA : EXTRA + AHEAD]
    left = scratch[LEFT : LEFT + AHEAD]

    before = row - stride
    if before < 0:
        before += rows
    if memory[RUN] > stride:
        level, trend = ring[before, LEVEL], ring[before, TREND]
        ring[row, LEVEL] = next_level(level, trend, newest)
        ring[row, TREND] = next_trend(level, trend, ring[row, LEVEL])
        change = newest - ring[before, TEMPERATURE]
        memory[STEP] += FAST / stride * (change * change - memory[STEP])
        surprise = newest - ring[before, FIRST_AHEAD]
        memory[RESIDUAL] = unexpected(surprise, memory)
        memory[SURPRISE] += FAST / stride * (surprise * surprise - memory[SURPRISE])
    else:
        ring[row, LEVEL] = newest
        ring[row, TREND] = 0.0
        memory[RESIDUAL] = 0.0
    away = newest - memory[MEAN]
    memory[MEAN] += SLOW / stride * away
    memory[SPREAD] += SLOW / stride * (away * away - memory[SPREAD])

    if part > 0.0 and run > (BEHIND + AHEAD - 1) * stride:
        kept = 1.0 - (1.0 - GATE_KEPT) * part
        origin = row - AHEAD * stride
        if origin < 0:
            origin += rows
        start = ring[origin, TEMPERATURE]
        fill_inputs(ring, origin, stride, memory, x, loaded)
        # Blind: judged by what was said then.
        memory[JUDGED] = kept * memory[JUDGED] + part
        at = origin
        for h in range(AHEAD):
            at += stride
            if at >= rows:
                at -= rows
            came = ring[at, TEMPERATURE] - start
            made = ring[origin, MADE + h]
            memory[BLIND + h] = kept * memory[BLIND + h] + came * came
            memory[BLIND + AHEAD + h] = kept * memory[BLIND + AHEAD + h] + came * made
            memory[BLIND + 2 * AHEAD + h] = kept * memory[BLIND + 2 * AHEAD + h] + made * made
            if loaded:
                x[COMING_AT + h] = ring[at, LOAD]
            left[h] = came
        square = 0.0
        if loaded:
            linear_forecast(linear, BLIND_INPUTS, x, base)
            for h in range(AHEAD):
                base[h] = left[h] - base[h]
            if not linear_learn(linear, BLIND_INPUTS, x, base, gain, 1.0 - (1.0 - FORGETTING_BLIND) * part):
                memory[ROLLBACKS] += 1.0
            linear_forecast(linear[BLIND_CELLS:], KNOWING_INPUTS, x, base)
            network_output(shape, net, memory, x, start, True, extra)
            memory[KNOWING_JUDGED] = kept * memory[KNOWING_JUDGED] + part
            for h in range(AHEAD):
                came = left[h]
                left[h] = came - base[h]
                after = left[h] - extra[h]
                memory[KNOWING + h] = kept * memory[KNOWING + h] + came * came
                memory[KNOWING + AHEAD + h] = kept * memory[KNOWING + AHEAD + h] + left[h] * left[h]
                memory[KNOWING + 2 * AHEAD + h] = kept * memory[KNOWING + 2 * AHEAD + h] + after * after
                square += left[h] * left[h]
            if not linear_learn(
                linear[BLIND_CELLS:], KNOWING_INPUTS, x, left, gain, 1.0 - (1.0 - FORGETTING_KNOWING) * part
            ):
                memory[ROLLBACKS] += 1.0
        else:
            for h in range(AHEAD):
                left[h] -= ring[origin, LEVEL] - start + trend_sum(h + 1) * ring[origin, TREND]
                square += left[h] * left[h]
            network_output(shape, net, memory, x, start, False, extra)
        network_learn(shape, net, memory, left, RATE)
        memory[ERROR] += SLOW * part * (square / AHEAD - memory[ERROR])

    still = True
    if run > (BEHIND - 1) * stride:
        fill_inputs(ring, row, stride, memory, x, loaded)
        still = is_still(x, loaded, False)
        if loaded:
            linear_forecast(linear, BLIND_INPUTS, x, base)
        else:
            network_output(shape, net, memory, x, newest, False, base)
            for h in range(AHEAD):
                base[h] += ring[row, LEVEL] - newest + trend_sum(h + 1) * ring[row, TREND]
    else:
        for h in range(AHEAD):
            base[h] = 0.0
    for h in range(AHEAD):
        made = base[h] if abs(base[h]) <= CORRECTION_MAX else 0.0
        ring[row, MADE + h] = made
        memory[FORECAST + h] = newest if still else newest + blind_gate(memory, h) * made
    ring[row, FIRST_AHEAD] = memory[FORECAST]


@kernel
def see_all(
    plan: Integers, memory: Floats, ring: Floats, linear: Floats, shape: Integers, nets: Floats, scratch: Floats,
    seen: Floats, learns: bool,
) -> None:  # fmt: skip
    """One cycle of all sensors. `seen`: temperatures, then loads. Weights and gates change only where it `learns`."""
    sensors = memory.shape[0]
    stride = plan[STRIDE]
    loaded = plan[LOADED] != 0
    rows = ring.shape[1]
    row = plan[CLOCK] % rows
    turns = min(sensors, stride)
    turn = plan[CLOCK] % turns
    part = turns / stride if learns else 0.0
    for s in range(sensors):
        temperature = seen[s]
        load = seen[sensors + plan[LOAD_OF + s]] if loaded else 0.0
        if temperature > 0.0 and temperature <= TEMPERATURE_MAX:
            if memory[s, FIRST] == UNKNOWN:
                memory[s, FIRST] = temperature
                memory[s, MEAN] = temperature
            memory[s, RUN] += 1.0
            if load >= 0.0 and load <= LOAD_MAX:
                memory[s, LOAD_RUN] += 1.0
            else:
                memory[s, LOAD_RUN] = 0.0
                load = UNKNOWN
            ring[s, row, TEMPERATURE] = temperature
            ring[s, row, LOAD] = load
            see_one(
                memory[s], ring[s], row, stride, loaded, linear[s], shape, nets[s], scratch,
                part if s % turns == turn else 0.0,
            )  # fmt: skip
        else:
            memory[s, RUN] = 0.0
            memory[s, LOAD_RUN] = 0.0
            memory[s, RESIDUAL] = 0.0
            for h in range(AHEAD):
                memory[s, FORECAST + h] = UNKNOWN
    plan[CLOCK] += 1


@kernel
def condition_all(
    plan: Integers, memory: Floats, ring: Floats, linear: Floats, shape: Integers, nets: Floats, scratch: Floats,
    coming: Floats, out: Floats,
) -> None:  # fmt: skip
    """Into `out` what would come under the loads `coming` (loads x 5); the blind forecast where that is not known."""
    stride = plan[STRIDE]
    row = (plan[CLOCK] - 1) % ring.shape[1]
    for s in range(memory.shape[0]):
        usable = plan[LOADED] != 0 and memory[s, LOAD_RUN] > (BEHIND - 1) * stride
        if usable:
            for h in range(AHEAD):
                load = coming[plan[LOAD_OF + s], h]
                if not (load >= 0.0 and load <= LOAD_MAX):
                    usable = False
                scratch[X + COMING_AT + h] = load
        if usable:
            fill_inputs(ring[s], row, stride, memory[s], scratch[X : X + KNOWING_INPUTS], True)
            knowing_forecast(memory[s], ring[s], row, linear[s], shape, nets[s], scratch, out[s])
        else:
            for h in range(AHEAD):
                out[s, h] = memory[s, FORECAST + h]


class Predictor:
    """Forecasts for a bank of sensors, one kernel call a cycle.

    `sensors` temperatures and `loads` loads are seen together; with no loads it is the kind `temperatures`, else the
    kind `loads`, in which sensor i goes by load `load_of[i]` (by default the load of its own number, or the last).
    `stride`: how many cycles a step has. The networks' weights are drawn from `stream`, with zeros in the last layer,
    so that they correct nothing before they learned something. Raises `ValueError` for numbers out of range.
    Of several sensors those of one turn learn in a cycle, as many turns as sensors or cycles a step, whichever is less:
    no sensor learns less often than once a step. All forecast every cycle.
    """

    def __init__(
        self, sensors: int, loads: int, stream: Stream, stride: int = 1, load_of: Sequence[int] | None = None
    ) -> None:
        if sensors < 1 or loads < 0 or stride < 1:
            raise ValueError(f"{sensors} sensors, {loads} loads, stride {stride}: allowed are from 1, 0 and 1 on")
        if load_of is None:
            load_of = [min(i, max(loads - 1, 0)) for i in range(sensors)]
        if len(load_of) != sensors or any(not 0 <= i < max(loads, 1) for i in load_of):
            raise ValueError(f"load_of {tuple(load_of)}: needs {sensors} numbers from 0 to {max(loads - 1, 0)}")
        self.sensors, self.loads = sensors, loads
        self._plan = np.array([0, stride, loads > 0, *load_of], dtype=np.int64)
        self._memory = np.zeros((sensors, MEMORY))
        self._memory[:, FIRST] = UNKNOWN
        self._memory[:, [SPREAD, STEP, ERROR, SURPRISE]] = 1.0
        self._memory[:, FORECAST:] = UNKNOWN
        self._ring = np.zeros((sensors, STEPS_KEPT * stride, RING))
        cells = BLIND_CELLS + linear_length(KNOWING_INPUTS, AHEAD) if loads else 1
        self._linear = np.zeros((sensors, cells))
        self._shape = new_shape(2 * BEHIND + AHEAD if loads else BEHIND, 16, 8, AHEAD)
        nets = []
        for i in range(sensors):
            if loads:
                reset_covariance(self._linear[i], BLIND_INPUTS)
                reset_covariance(self._linear[i, BLIND_CELLS:], KNOWING_INPUTS)
            net = new_network(self._shape, stream)
            weights_of(self._shape, net)[-9 * AHEAD :] = 0.0
            keep(self._shape, net)
            nets.append(net)
        self._nets = np.array(nets)
        self._scratch = np.zeros(SCRATCH)
        self._seen = np.zeros(sensors + loads)
        self._learns = True
        self._out = np.zeros((sensors, AHEAD))
        self._forecast = self._memory[:, FORECAST : FORECAST + AHEAD]
        self._forecast.flags.writeable = False
        self.operands = (
            self._plan, self._memory, self._ring, self._linear, self._shape, self._nets, self._scratch, self._seen,
        )  # fmt: skip

    def see(self, temperatures: Floats | Sequence[float], loads: Floats | Sequence[float]) -> Floats:
        """Learn from the newest samples and forecast: sensors x 5, a view that the next call changes.

        What is not known (`UNKNOWN`, or out of range, or not finite) is not used: a sensor's history starts anew after
        it, and its forecast is `UNKNOWN` meanwhile. With too little history the forecast is the newest temperature.
        """
        self._seen[: self.sensors] = temperatures
        self._seen[self.sensors :] = loads
        self.learn()
        return self._forecast

    def learn(self) -> None:
        """`see` the samples that stand in the last of `operands`, behind one another."""
        see_all(*self.operands, self._learns)

    def conditional(self, coming: Floats) -> Floats:
        """What would come if the next five loads were `coming` (loads x 5): sensors x 5, changed by the next call.

        Changes no state. Where a load is not known, or none is seen, it is the forecast of `see`.
        """
        condition_all(
            self._plan, self._memory, self._ring, self._linear, self._shape, self._nets, self._scratch, coming,
            self._out,
        )  # fmt: skip
        return self._out

    @property
    def forecast(self) -> Floats:
        """What the last `see` gave."""
        return self._forecast

    def freeze(self, frozen: bool = True) -> None:
        """Forecast with the weights as they are from now on; or learn again."""
        self._learns = not frozen

    def forget(self) -> None:
        """Another run begins: drop the history of samples, and keep what was learned from it."""
        self._memory[:, [RUN, LOAD_RUN]] = 0.0

    def networks(self) -> list[Floats]:
        """The networks' weights and those of the linear forecasts, as views: what a digest of the learner covers."""
        parts = slice(BLIND_INPUTS**2, BLIND_CELLS), slice(BLIND_CELLS + KNOWING_INPUTS**2, None)
        linear = [cells[part] for cells in self._linear if self.loads for part in parts]
        return [*[weights_of(self._shape, net) for net in self._nets], *linear]

    @property
    def rollbacks(self) -> int:
        """How often a step of learning was taken back because it led to what is no number or a huge one."""
        return int(self._memory[:, ROLLBACKS].sum())

    def weights(self) -> list[Floats | Integers]:
        """All state, as views: who copies them and gives them to `restore` goes on bit for bit."""
        state = int(5 * self._shape[PARAMETERS]) + 2
        return [self._plan, self._memory, self._ring, self._linear, self._nets[:, :state]]

    def restore(self, weights: Sequence[Floats | Integers]) -> None:
        """Go on from what `weights` gave. Raises `ValueError` when it is of another bank."""
        mine = self.weights()
        if [w.shape for w in weights] != [w.shape for w in mine] or not np.array_equal(weights[0][1:], self._plan[1:]):
            raise ValueError("weights of another bank: needed are those of as many sensors, loads and cycles a step")
        if not all(np.isfinite(w).all() for w in weights):
            raise ValueError("weights that are not finite: needed are those that a bank gave")
        for to, source in zip(mine, weights, strict=True):
            to[...] = source
