"""A network with weights of eight bits and activations of 16, and what that costs.

Per layer: q = round(x / step) + zero in -32,768..32,767 for its inputs x, with step and zero from the smallest and
largest that were seen in calibration (beyond them q saturates), and round(w / scale) in -127..127 for its weights. Then
z = scale * step * (sum of weights times (q - zero)) + bias; sums are integers, and what is done with floats is done in
one order, so the bits are the same everywhere. Formulas: Jacob and others, "Quantization and training of neural
networks for efficient integer-arithmetic-only inference", 2018, section 2; softsign and biases stay floats here.

Rounded weights shift each output by what they make of the mean input. Calibration measures that shift and takes it off
the bias: Nagel and others, "Data-free quantization through weight equalization and bias correction", 2019, section 4.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from twin.kernels import Floats, Integers, kernel_nonzero
from twin.learn.network import LAYERS, SIZES, forward, inputs_at, outputs_at, weights_of

Bytes = npt.NDArray[np.int8]
LARGEST_WEIGHT = 127
LOWEST, HIGHEST = -32_768, 32_767
"""Activations have 16 bits: of the temperatures and loads that a network sees, a 255th of the range is not little, and
actions that are worth almost the same are told apart by the last of a hidden layer's.
"""


@kernel_nonzero
def forward_quantised(
    shape: Integers,
    weights: Bytes,
    biases: Floats,
    steps: Floats,
    zeros: Integers,
    factors: Floats,
    offsets: Integers,
    values: Floats,
    units: Integers,
    sums: Integers,
) -> int:
    """From the inputs at the beginning of `values` to all activations there; returns where the outputs begin.

    `weights` are those of a network without the biases; `steps`, `zeros` and `factors` belong to layers, `biases` and
    `offsets` to their outputs one after another; `units` takes the inputs of all layers in 16 bits;
    `sums` is scratch as wide as the widest layer.
    """
    layers = shape[LAYERS]
    at = 0
    weights_at = 0
    outputs_from = 0
    for layer in range(layers):
        inputs = shape[SIZES + layer]
        outputs = shape[SIZES + layer + 1]
        step, zero, factor = steps[layer], zeros[layer], factors[layer]
        for i in range(inputs):
            value = values[at + i] / step
            # Cut before it becomes an integer, which no number outside of 64 bits can become.
            if value > 131_072.0:
                value = 131_072.0
            elif not value >= -131_072.0:
                value = -131_072.0
            unit = zero + (int(value + 0.5) if value >= 0.0 else -int(0.5 - value))
            units[at + i] = min(max(unit, LOWEST), HIGHEST)
        for j in range(outputs):
            sums[j] = offsets[outputs_from + j]
        for i in range(inputs):
            unit = units[at + i]
            row = weights[weights_at + i * outputs : weights_at + (i + 1) * outputs]
            for j in range(outputs):
                # A product of two bytes is no byte.
                sums[j] += unit * np.int64(row[j])
        at += inputs
        for j in range(outputs):
            z = sums[j] * factor + biases[outputs_from + j]
            values[at + j] = z if layer == layers - 1 else z / (1.0 + abs(z))
        weights_at += inputs * outputs
        outputs_from += outputs
    return int(at)


@dataclass(frozen=True)
class Report:
    """What eight bits cost on `states` states: the share with the same largest output, and the outputs' errors."""

    states: int
    same_action_share: float
    error_max: float
    error_mean: float


class Quantised:
    """A network of `twin.learn.network` in eight bits. Made by `of`."""

    def __init__(self, shape: Integers, net: Floats, states: Floats) -> None:
        self.shape = shape.copy()
        self.net = net.copy()
        widths = [int(width) for width in shape[SIZES:]]
        outputs = sum(widths[1:])
        self.steps = np.ones(len(widths) - 1, dtype=np.float64)
        self.zeros = np.zeros(len(widths) - 1, dtype=np.int64)
        self.weights = np.zeros(sum(a * b for a, b in pairwise(widths)), dtype=np.int8)
        self.biases = np.zeros(outputs, dtype=np.float64)
        self.factors = np.ones(len(widths) - 1, dtype=np.float64)
        self.offsets = np.zeros(outputs, dtype=np.int64)
        self._values = np.zeros(sum(widths), dtype=np.float64)
        self._units = np.zeros(sum(widths), dtype=np.int64)
        self._sums = np.zeros(max(widths), dtype=np.int64)
        seen = _Seen(self.shape, self.net, states)
        floats = weights_of(self.shape, self.net)
        floats_at = weights_at = outputs_from = inputs_from = 0
        for layer, (a, b) in enumerate(pairwise(widths)):
            # A layer that saw 0 alone has no range.
            step = (seen.high[layer] - seen.low[layer]) / (HIGHEST - LOWEST) or 1.0
            zero = LOWEST - round(seen.low[layer] / step)
            matrix = floats[floats_at : floats_at + a * b].reshape(a, b)
            scale = float(np.abs(matrix).max()) / LARGEST_WEIGHT or 1.0
            whole = np.rint(matrix / scale).astype(np.int8)
            place = slice(outputs_from, outputs_from + b)
            self.steps[layer], self.zeros[layer] = step, zero
            self.weights[weights_at : weights_at + a * b] = whole.reshape(-1)
            self.biases[place] = floats[floats_at + a * b : floats_at + (a + 1) * b]
            self.factors[layer] = scale * step
            self.offsets[place] = -zero * whole.astype(np.int64).sum(axis=0)
            units = self._sum_of_units(states)[inputs_from : inputs_from + a]
            exact = seen.total[inputs_from : inputs_from + a]
            shift = np.zeros(b, dtype=np.float64)
            for i in range(a):
                coarse = float(int(units[i]) - zero * len(states))
                shift += exact[i] * matrix[i] - coarse * (scale * step * whole[i])
            self.biases[place] += shift / len(states)
            floats_at += (a + 1) * b
            weights_at += a * b
            outputs_from += b
            inputs_from += a

    @classmethod
    def of(cls, shape: Integers, net: Floats, states: Floats) -> Quantised:
        """Quantise `net`, calibrated with `states` (one a row): they should cover what is to come, unknowns as well.

        Raises `ValueError` for states of another width, no states, and values that are not finite.
        """
        if states.ndim != 2 or len(states) == 0 or states.shape[1] != shape[SIZES]:
            raise ValueError(
                f"states for calibration are an array {states.shape}; needed are rows of {shape[SIZES]}, at least one"
            )
        if not np.isfinite(states).all() or not np.isfinite(weights_of(shape, net)).all():
            raise ValueError("states for calibration and weights have to be finite; some are not")
        return cls(shape, net, states)

    def forward(self, state: Floats) -> Floats:
        """The outputs for `state`, finite whatever it is: what is not a number counts as the smallest that was seen.

        Whether a state is one has to be asked before. The array is used again by the next call.
        """
        self._values[: len(state)] = state
        at = forward_quantised(
            self.shape, self.weights, self.biases, self.steps, self.zeros, self.factors, self.offsets, self._values,
            self._units, self._sums,
        )  # fmt: skip
        return self._values[at:]

    def _sum_of_units(self, states: Floats) -> Integers:
        """The inputs of all layers in eight bits, summed over the states."""
        total = np.zeros_like(self._units)
        for state in states:
            self.forward(state)
            total += self._units
        return total

    def report(self, states: Floats) -> Report:
        """Compare with the network as it was, on `states` (one a row, at least one)."""
        first, outputs = int(inputs_at(self.shape)), int(outputs_at(self.shape))
        count = int(self.shape[-1])
        same = 0
        largest = total = 0.0
        for state in states:
            self.net[first : first + len(state)] = state
            forward(self.shape, self.net)
            exact = self.net[outputs : outputs + count]
            mine = self.forward(state)
            same += int(exact.argmax() == mine.argmax())
            errors = np.abs(exact - mine)
            largest = max(largest, float(errors.max()))
            total += float(errors.sum())
        return Report(len(states), same / len(states), largest, total / (len(states) * count))


class _Seen:
    """The inputs of each layer over the states: the smallest and the largest, with 0 among them, and their sums."""

    def __init__(self, shape: Integers, net: Floats, states: Floats) -> None:
        first = int(inputs_at(shape))
        widths = [int(width) for width in shape[SIZES:-1]]
        self.low, self.high = [0.0] * len(widths), [0.0] * len(widths)
        self.total = np.zeros(sum(widths), dtype=np.float64)
        for state in states:
            net[first : first + len(state)] = state
            forward(shape, net)
            at = first
            for layer, width in enumerate(widths):
                values = net[at : at + width]
                self.low[layer] = min(self.low[layer], float(values.min()))
                self.high[layer] = max(self.high[layer], float(values.max()))
                at += width
            self.total += net[first : first + len(self.total)]
