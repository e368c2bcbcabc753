"""Several linear forecasts of the same inputs, learned by recursive least squares with forgetting, as kernels.

Ljung and Soederstroem, "Theory and practice of recursive identification", 1983, section 2.2, for

    k = P x / (f + x' P x),  w' = w + k e,  P' = (P - k x' P) / f

with e the error before the step and f the forgetting. Three guards keep it sound for ever: P changes by a product of
two numbers that is the same in either order, so that it stays symmetric to the bit; it is divided by f only while its
trace is small, because inputs that say nothing new would let it grow without end; and a step after which a weight
would not be finite, or huge, is not made, but P starts again.

`cells` (float64) holds P (inputs x inputs), then the weights (inputs x outputs), row by row.
"""

from __future__ import annotations

from twin.kernels import Floats, kernel

PRIOR = 10.0
"""P starts as this times the identity: the variance of a weight before anything was seen."""
GROWTH_MAX = 10.0
"""P forgets while its mean diagonal is below this many times `PRIOR`."""
WEIGHT_MAX = 1e4


def linear_length(inputs: int, outputs: int) -> int:
    """How many cells it has."""
    return inputs * (inputs + outputs)


@kernel
def reset_covariance(cells: Floats, inputs: int) -> None:
    """Begin with P again and keep the weights."""
    for i in range(inputs * inputs):
        cells[i] = 0.0
    for i in range(inputs):
        cells[i * inputs + i] = PRIOR


@kernel
def linear_forecast(cells: Floats, inputs: int, x: Floats, out: Floats) -> None:
    """out = W' x; as many outputs as `out` is long."""
    outputs = out.size
    at = inputs * inputs
    for j in range(outputs):
        out[j] = 0.0
    for i in range(inputs):
        value = x[i]
        for j in range(outputs):
            out[j] += value * cells[at + i * outputs + j]


@kernel
def linear_learn(cells: Floats, inputs: int, x: Floats, errors: Floats, gain: Floats, forgetting: float) -> bool:
    """One step towards what would have made `errors` (target less forecast, one for each output) zero.

    `gain` is scratch of at least `inputs` cells. Returns False when the step was not made and P was started again.
    """
    outputs = errors.size
    y = gain[:inputs]
    for i in range(inputs):
        y[i] = 0.0
    for i in range(inputs):
        value = x[i]
        row = cells[i * inputs : (i + 1) * inputs]
        for j in range(inputs):
            y[j] += value * row[j]
    spread = forgetting
    for i in range(inputs):
        spread += x[i] * y[i]
    largest = 0.0
    total = 0.0
    if spread >= 0.5 * forgetting and spread < 1e12:
        for i in range(inputs):
            share = y[i] / spread
            for j in range(outputs):
                weight = cells[inputs * inputs + i * outputs + j] + share * errors[j]
                largest = max(largest, abs(weight))
                total += weight - weight
    else:
        largest = 2.0 * WEIGHT_MAX
    if not (total == 0.0 and largest <= WEIGHT_MAX):
        reset_covariance(cells, inputs)
        return False
    for i in range(inputs):
        share = y[i] / spread
        for j in range(outputs):
            cells[inputs * inputs + i * outputs + j] += share * errors[j]
    trace = 0.0
    for i in range(inputs):
        trace += cells[i * inputs + i]
    grow = 1.0 / forgetting if trace < GROWTH_MAX * PRIOR * inputs else 1.0
    shrink = 1.0 / spread
    for i in range(inputs):
        row = cells[i * inputs : (i + 1) * inputs]
        value = y[i]
        for j in range(inputs):
            row[j] = (row[j] - value * y[j] * shrink) * grow
    return True
