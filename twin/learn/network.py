"""A fully connected network in one array, with backpropagation and Adam, as kernels.

Hidden layers have the softsign z / (1 + |z|), the last one is linear. Softsign is smooth, bounded and made of `+` and
`/` alone, so that its bits are the same everywhere, and its slope follows from its value: (1 - |y|)^2.

`shape` (int64) says `[layers, parameters, inputs, width of layer 1, ..., outputs]`. `net` (float64) holds, one after
another: weights, gradient, first and second moments of Adam, the last good weights, two powers of Adam's decays, the
activations of all layers with the inputs first, and the errors at the same places. Weights of a layer are inputs x
outputs, row by row, then its biases: the innermost loops go along the outputs, where no sum is reordered when several
are done at once.

Adam: Kingma and Ba, "Adam: a method for stochastic optimization", 2015, algorithm 1.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from twin.kernels import Floats, Integers, Stream, kernel, kernel_nonzero

LAYERS, PARAMETERS, SIZES = range(3)
DECAY_FIRST = 0.9
DECAY_SECOND = 0.999
TINY = 1e-8
WEIGHT_MAX = 1e6
"""A weight beyond this is divergence, finite or not."""
SQUARE_ROOT_MAX = 1e150


def new_shape(*sizes: int) -> Integers:
    """The shape of a network of these widths, inputs first. Raises `ValueError` for fewer than two or one below 1."""
    if len(sizes) < 2 or any(size < 1 for size in sizes):
        raise ValueError(f"a network of {sizes}: needs at least two widths, each at least 1")
    parameters = sum((a + 1) * b for a, b in pairwise(sizes))
    return np.array([len(sizes) - 1, parameters, *sizes], dtype=np.int64)


def new_network(shape: Integers, stream: Stream) -> Floats:
    """A network with weights drawn evenly from +-sqrt(6 / (inputs + outputs)) of each layer and biases 0.

    The bounds are those of Glorot and Bengio, 2010, equation 16.
    """
    net = np.zeros(net_length(shape), dtype=np.float64)
    at = 0
    for inputs, outputs in pairwise(shape[SIZES:].tolist()):
        # A square root is correctly rounded everywhere.
        bound = float(np.sqrt(6.0 / (inputs + outputs)))
        for i in range(inputs * outputs):
            net[at + i] = bound * (stream.next32() / 2**31 - 1.0)
        at += (inputs + 1) * outputs
    reset_adam(shape, net)
    keep(shape, net)
    return net


def net_length(shape: Integers) -> int:
    """How many cells a network of this shape has."""
    return int(5 * shape[PARAMETERS] + 2 + 2 * shape[SIZES:].sum())


def weights_of(shape: Integers, net: Floats) -> Floats:
    """The weights, as a view."""
    return net[: int(shape[PARAMETERS])]


@kernel
def clear(cells: Floats) -> None:
    """All of them become 0. (Places that are counted from 0 on can be written several at a time.)"""
    for i in range(len(cells)):
        cells[i] = 0.0


@kernel
def copy(source: Floats, target: Floats) -> None:
    """`target` becomes like `source`, which is as long."""
    for i in range(len(target)):
        target[i] = source[i]


@kernel
def reset_adam(shape: Integers, net: Floats) -> None:
    """Forget the moments, as if the weights were new."""
    parameters = shape[PARAMETERS]
    clear(net[2 * parameters : 4 * parameters])
    net[5 * parameters] = 1.0
    net[5 * parameters + 1] = 1.0


@kernel
def keep(shape: Integers, net: Floats) -> None:
    """Remember the weights as good ones."""
    parameters = shape[PARAMETERS]
    copy(net[:parameters], net[4 * parameters : 5 * parameters])


@kernel
def inputs_at(shape: Integers) -> int:
    """Where in `net` the inputs are to be put."""
    return int(5 * shape[PARAMETERS] + 2)


@kernel
def outputs_at(shape: Integers) -> int:
    """Where in `net` the outputs are found."""
    at = 5 * shape[PARAMETERS] + 2
    for layer in range(shape[LAYERS]):
        at += shape[SIZES + layer]
    return int(at)


@kernel
def errors_at(shape: Integers) -> int:
    """Where in `net` the loss's slope along each output is to be put before `backward`."""
    at = outputs_at(shape)
    for layer in range(shape[LAYERS] + 1):
        at += shape[SIZES + layer]
    return at


@kernel_nonzero
def forward(shape: Integers, net: Floats) -> None:
    """From the inputs that stand in `net` to all activations and the outputs."""
    layers = shape[LAYERS]
    at = 5 * shape[PARAMETERS] + 2
    weights_at = 0
    for layer in range(layers):
        inputs = shape[SIZES + layer]
        outputs = shape[SIZES + layer + 1]
        x = net[at : at + inputs]
        z = net[at + inputs : at + inputs + outputs]
        bias = net[weights_at + inputs * outputs : weights_at + (inputs + 1) * outputs]
        for j in range(outputs):
            z[j] = bias[j]
        # Four inputs at once are one pass over the outputs instead of four, with each sum still in the same order.
        fours = inputs - inputs % 4
        for i in range(0, fours, 4):
            row_at = weights_at + i * outputs
            row0 = net[row_at : row_at + outputs]
            row1 = net[row_at + outputs : row_at + 2 * outputs]
            row2 = net[row_at + 2 * outputs : row_at + 3 * outputs]
            row3 = net[row_at + 3 * outputs : row_at + 4 * outputs]
            x0, x1, x2, x3 = x[i], x[i + 1], x[i + 2], x[i + 3]
            for j in range(outputs):
                z[j] = z[j] + x0 * row0[j] + x1 * row1[j] + x2 * row2[j] + x3 * row3[j]
        for i in range(fours, inputs):
            row0 = net[weights_at + i * outputs : weights_at + (i + 1) * outputs]
            x0 = x[i]
            for j in range(outputs):
                z[j] += x0 * row0[j]
        if layer < layers - 1:
            for j in range(outputs):
                z[j] = z[j] / (1.0 + abs(z[j]))
        at += inputs
        weights_at += (inputs + 1) * outputs


@kernel
def backward(shape: Integers, net: Floats) -> None:
    """Add this example's gradient, from the activations of `forward` and the errors at the outputs."""
    layers = shape[LAYERS]
    parameters = shape[PARAMETERS]
    at = outputs_at(shape)
    errors = errors_at(shape)
    weights_at = parameters
    for back in range(layers):
        layer = layers - 1 - back
        inputs = shape[SIZES + layer]
        outputs = shape[SIZES + layer + 1]
        weights_at -= (inputs + 1) * outputs
        at -= inputs
        x = net[at : at + inputs]
        d = net[errors : errors + outputs]
        before = net[errors - inputs : errors]
        bias = net[parameters + weights_at + inputs * outputs : parameters + weights_at + (inputs + 1) * outputs]
        for j in range(outputs):
            bias[j] += d[j]
        for i in range(inputs):
            slope = net[parameters + weights_at + i * outputs : parameters + weights_at + (i + 1) * outputs]
            value = x[i]
            for j in range(outputs):
                slope[j] += value * d[j]
        if layer > 0:
            _errors_before(net[weights_at : weights_at + inputs * outputs], x, d, before)
        errors -= inputs


@kernel
def _errors_before(weights: Floats, x: Floats, d: Floats, before: Floats) -> None:
    """The errors of a layer's inputs from those of its outputs."""
    inputs, outputs = len(x), len(d)
    # A sum waits for itself at each of its terms, so four that do not wait for each other go side by side.
    fours = inputs - inputs % 4
    for i in range(0, fours, 4):
        row0 = weights[i * outputs : (i + 1) * outputs]
        row1 = weights[(i + 1) * outputs : (i + 2) * outputs]
        row2 = weights[(i + 2) * outputs : (i + 3) * outputs]
        row3 = weights[(i + 3) * outputs : (i + 4) * outputs]
        total0, total1, total2, total3 = 0.0, 0.0, 0.0, 0.0
        for j in range(outputs):
            total0 += row0[j] * d[j]
            total1 += row1[j] * d[j]
            total2 += row2[j] * d[j]
            total3 += row3[j] * d[j]
        before[i] = total0
        before[i + 1] = total1
        before[i + 2] = total2
        before[i + 3] = total3
    for i in range(fours, inputs):
        total0 = 0.0
        for j in range(outputs):
            total0 += weights[i * outputs + j] * d[j]
        before[i] = total0
    for i in range(inputs):
        steep = 1.0 - abs(x[i])
        before[i] *= steep * steep


@kernel
def clear_gradient(shape: Integers, net: Floats) -> None:
    """Begin a new batch."""
    parameters = shape[PARAMETERS]
    clear(net[parameters : 2 * parameters])


@kernel
def is_finite(values: Floats, first: int, count: int) -> bool:
    """Whether `count` values from `first` on are numbers of which squares are numbers, too."""
    return within(values, first, count, SQUARE_ROOT_MAX)


@kernel
def within(values: Floats, first: int, count: int, most: float) -> bool:
    """Whether `count` values from `first` on are numbers between -`most` and `most`."""
    some = values[first : first + count]
    bad = 0
    # Integers may be counted several at a time. What is not a number is not below anything.
    for i in range(count):
        bad += 0 if abs(some[i]) <= most else 1
    return bad == 0


@kernel
def square_length(values: Floats) -> float:
    """The sum of squares, in four sums that do not wait for each other."""
    fours = len(values) - len(values) % 4
    total0, total1, total2, total3 = 0.0, 0.0, 0.0, 0.0
    for i in range(0, fours, 4):
        total0 += values[i] * values[i]
        total1 += values[i + 1] * values[i + 1]
        total2 += values[i + 2] * values[i + 2]
        total3 += values[i + 3] * values[i + 3]
    for i in range(fours, len(values)):
        total0 += values[i] * values[i]
    return (total0 + total1) + (total2 + total3)


@kernel_nonzero
def descend(shape: Integers, net: Floats, rate: float, longest: float) -> bool:
    """One step of Adam against the gradient, which is first cut to the length `longest`.

    Returns False, with the last good weights back and the moments forgotten, when the gradient or what would become of
    the weights is not finite (or the gradient's square is not), or a weight is beyond `WEIGHT_MAX`.
    """
    parameters = shape[PARAMETERS]
    weights = net[:parameters]
    gradient = net[parameters : 2 * parameters]
    first = net[2 * parameters : 3 * parameters]
    second = net[3 * parameters : 4 * parameters]
    if not is_finite(net, parameters, parameters):
        restore(shape, net)
        return False
    square = square_length(gradient)
    scale = 1.0
    if not square <= longest * longest:
        scale = longest / np.sqrt(square)
    net[5 * parameters] *= DECAY_FIRST
    net[5 * parameters + 1] *= DECAY_SECOND
    step = rate / (1.0 - net[5 * parameters])
    correction = 1.0 / (1.0 - net[5 * parameters + 1])
    for i in range(parameters):
        slope = gradient[i] * scale
        first[i] = DECAY_FIRST * first[i] + (1.0 - DECAY_FIRST) * slope
        second[i] = DECAY_SECOND * second[i] + (1.0 - DECAY_SECOND) * slope * slope
        weights[i] -= step * first[i] / (np.sqrt(second[i] * correction) + TINY)
    if not within(net, 0, parameters, WEIGHT_MAX):
        restore(shape, net)
        return False
    keep(shape, net)
    return True


@kernel
def restore(shape: Integers, net: Floats) -> None:
    """Put the last good weights back, and forget the moments that led away from them."""
    parameters = shape[PARAMETERS]
    copy(net[4 * parameters : 5 * parameters], net[:parameters])
    clear_gradient(shape, net)
    reset_adam(shape, net)
