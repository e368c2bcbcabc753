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

from twin.kernels import Floats, Integers, Stream, kernel

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
def reset_adam(shape: Integers, net: Floats) -> None:
    """Forget the moments, as if the weights were new."""
    parameters = shape[PARAMETERS]
    for i in range(2 * parameters, 4 * parameters):
        net[i] = 0.0
    net[5 * parameters] = 1.0
    net[5 * parameters + 1] = 1.0


@kernel
def keep(shape: Integers, net: Floats) -> None:
    """Remember the weights as good ones."""
    parameters = shape[PARAMETERS]
    for i in range(parameters):
        net[4 * parameters + i] = net[i]


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


@kernel
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
        for i in range(inputs):
            row = net[weights_at + i * outputs : weights_at + (i + 1) * outputs]
            value = x[i]
            for j in range(outputs):
                z[j] += value * row[j]
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
            row = net[weights_at + i * outputs : weights_at + (i + 1) * outputs]
            slope = net[parameters + weights_at + i * outputs : parameters + weights_at + (i + 1) * outputs]
            value = x[i]
            for j in range(outputs):
                slope[j] += value * d[j]
            if layer > 0:
                total = 0.0
                for j in range(outputs):
                    total += row[j] * d[j]
                steep = 1.0 - abs(value)
                before[i] = total * (steep * steep)
        errors -= inputs


@kernel
def clear_gradient(shape: Integers, net: Floats) -> None:
    """Begin a new batch."""
    parameters = shape[PARAMETERS]
    for i in range(parameters, 2 * parameters):
        net[i] = 0.0


@kernel
def is_finite(values: Floats, first: int, count: int) -> bool:
    """Whether `count` values from `first` on are numbers of which squares are numbers, too."""
    wrong = 0
    for i in range(first, first + count):
        # Nothing that is not a number is less than one.
        wrong += 0 if abs(values[i]) <= SQUARE_ROOT_MAX else 1
    return wrong == 0


@kernel
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
    square = 0.0
    for i in range(parameters):
        square += gradient[i] * gradient[i]
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
    largest = 0.0
    for i in range(parameters):
        largest = max(largest, abs(weights[i]))
    if not is_finite(net, 0, parameters) or largest > WEIGHT_MAX:
        restore(shape, net)
        return False
    keep(shape, net)
    return True


@kernel
def restore(shape: Integers, net: Floats) -> None:
    """Put the last good weights back, and forget the moments that led away from them."""
    parameters = shape[PARAMETERS]
    for i in range(parameters):
        net[i] = net[4 * parameters + i]
    clear_gradient(shape, net)
    reset_adam(shape, net)
