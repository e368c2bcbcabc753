"""The network kernels: gradients against differences, Adam against its definition, and the way back from no number."""

from itertools import pairwise

import numpy as np
import pytest

from twin.kernels import Stream
from twin.learn.network import (
    PARAMETERS,
    WEIGHT_MAX,
    backward,
    clear_gradient,
    descend,
    errors_at,
    forward,
    inputs_at,
    new_network,
    new_shape,
    outputs_at,
    weights_of,
)

SHAPES = [(10, 16, 8, 5), (25, 16, 8, 5), (8, 32, 16, 5), (8, 4, 2, 4, 8)]


def loss(shape, net, inputs, targets) -> float:
    """Half the squared error, with the errors put where `backward` wants them."""
    net[inputs_at(shape) : inputs_at(shape) + inputs.size] = inputs
    forward(shape, net)
    out = outputs_at(shape)
    wrong = net[out : out + targets.size] - targets
    net[errors_at(shape) : errors_at(shape) + targets.size] = wrong
    return float(np.sum(wrong * wrong) / 2.0)


@pytest.mark.parametrize("sizes", SHAPES, ids=str)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_gradients_equal_central_differences(sizes, seed) -> None:
    rng = np.random.default_rng(seed)
    shape = new_shape(*sizes)
    net = new_network(shape, Stream(seed, "gradients"))
    weights = weights_of(shape, net)
    weights += rng.normal(0.0, 0.1, weights.size)
    inputs, targets = rng.normal(size=sizes[0]), rng.normal(size=sizes[-1])
    clear_gradient(shape, net)
    loss(shape, net, inputs, targets)
    backward(shape, net)
    gradient = net[weights.size : 2 * weights.size].copy()
    step = 1e-5
    at = 0
    for before, width in pairwise(sizes):
        layer = range(at, at + (before + 1) * width)
        at += len(layer)
        found = []
        for i in layer:
            kept = weights[i]
            weights[i] = kept + step
            above = loss(shape, net, inputs, targets)
            weights[i] = kept - step
            below = loss(shape, net, inputs, targets)
            weights[i] = kept
            found.append((above - below) / (2.0 * step))
        size = np.abs(found).max()
        assert size > 1e-3
        assert np.abs(gradient[layer.start : layer.stop] - found).max() < 1e-6 * size
    assert at == weights.size == shape[PARAMETERS]


def test_gradients_of_a_batch_add_up() -> None:
    rng = np.random.default_rng(5)
    shape = new_shape(4, 3, 2)
    net = new_network(shape, Stream(5, "batch"))
    count = int(shape[PARAMETERS])
    examples = [(rng.normal(size=4), rng.normal(size=2)) for _ in range(3)]
    single = []
    for inputs, targets in examples:
        clear_gradient(shape, net)
        loss(shape, net, inputs, targets)
        backward(shape, net)
        single.append(net[count : 2 * count].copy())
    clear_gradient(shape, net)
    for inputs, targets in examples:
        loss(shape, net, inputs, targets)
        backward(shape, net)
    assert np.allclose(net[count : 2 * count], sum(single), rtol=1e-12, atol=1e-14)


def test_the_shape_asked_for_has_357_parameters() -> None:
    assert new_shape(10, 16, 8, 5)[PARAMETERS] == 357
    assert new_shape(25, 16, 8, 5)[PARAMETERS] == 597


@pytest.mark.parametrize("longest", [1e9, 0.5])
def test_steps_of_adam_are_those_of_its_definition(longest) -> None:
    rng = np.random.default_rng(6)
    shape = new_shape(3, 2, 2)
    net = new_network(shape, Stream(6, "adam"))
    count = int(shape[PARAMETERS])
    weights = weights_of(shape, net).copy()
    first, second = np.zeros(count), np.zeros(count)
    for t in range(1, 8):
        gradient = rng.normal(size=count)
        net[count : 2 * count] = gradient
        assert descend(shape, net, 0.01, longest)
        gradient = gradient * min(1.0, longest / np.sqrt(np.sum(gradient**2)))
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        weights -= 0.01 * (first / (1 - 0.9**t)) / (np.sqrt(second / (1 - 0.999**t)) + 1e-8)
        assert np.allclose(weights_of(shape, net), weights, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e308])
@pytest.mark.parametrize("where", ["gradient", "weights"])
def test_what_is_no_number_brings_the_last_good_weights_back(bad, where) -> None:
    shape = new_shape(3, 2, 2)
    net = new_network(shape, Stream(7, "rollback"))
    count = int(shape[PARAMETERS])
    net[count : 2 * count] = 0.1
    assert descend(shape, net, 0.01, 10.0)
    good = weights_of(shape, net).copy()
    net[count : 2 * count] = 0.1
    net[count + 4 if where == "gradient" else 4] = bad
    moved = descend(shape, net, 0.01, 10.0)
    assert np.isfinite(net[: 5 * count + 2]).all()
    assert not moved
    assert np.array_equal(weights_of(shape, net), good)
    assert not net[2 * count : 4 * count].any()
    assert list(net[5 * count : 5 * count + 2]) == [1.0, 1.0]
    net[count : 2 * count] = 0.1
    assert descend(shape, net, 0.01, 10.0)


def test_a_huge_weight_is_divergence() -> None:
    shape = new_shape(3, 2, 2)
    net = new_network(shape, Stream(8, "huge"))
    good = weights_of(shape, net).copy()
    net[3] = 2.0 * WEIGHT_MAX
    assert not descend(shape, net, 0.01, 10.0)
    assert np.array_equal(weights_of(shape, net), good)


@pytest.mark.parametrize("sizes", [(), (3,), (3, 0), (0, 2)])
def test_what_is_no_network_is_refused(sizes) -> None:
    with pytest.raises(ValueError, match="needs at least two widths"):
        new_shape(*sizes)
