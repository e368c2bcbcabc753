"""Does the disorder of the metrics grow? Shannon's entropy of histograms, block by block."""

from __future__ import annotations

import numpy as np

from twin.fingerprint.moments import varying
from twin.fingerprint.series import NotKnown
from twin.kernels import Floats, Integers, kernel, log

BINS = 16
LEAST_BLOCKS = 3


@kernel
def block_entropies(x: Integers, low: int, high: int, block: int, out: Floats) -> None:
    """Into `out` the entropy of each whole block, from 0 (one bin) to 1 (all alike): `BINS` bins from low to high.

    The last bin has its upper end. Above low, high is at most 2^62.
    """
    terms = np.zeros(block + 1)
    for count in range(1, block + 1):
        share = count / block
        terms[count] = -share * log(share)
    scale = BINS / float(high - low)
    counts = np.zeros(BINS, dtype=np.int64)
    for number in range(len(x) // block):
        for each in range(BINS):
            counts[each] = 0
        for t in range(number * block, (number + 1) * block):
            counts[min(BINS - 1, int(float(x[t] - low) * scale))] += 1
        found = 0.0
        for each in range(BINS):
            found += terms[counts[each]]
        out[number] = found / log(float(BINS))


@kernel
def slope(y: Floats) -> float:
    """The slope of the straight line through y[0], y[1], ... (two or more) by least squares."""
    count = len(y)
    middle = (count - 1) / 2.0
    first = y[0]
    above, below = 0.0, 0.0
    for i in range(count):
        above += (i - middle) * (y[i] - first)
        below += (i - middle) * (i - middle)
    return above / below


def entropy_growth(columns: tuple[Integers, ...], block: int) -> float:
    """How much the mean entropy of the series that vary grows a block, over their whole blocks.

    Raises `NotKnown` when there are fewer than `LEAST_BLOCKS` blocks, or none of the series varies.
    """
    blocks = len(columns[0]) // block
    if blocks < LEAST_BLOCKS:
        raise NotKnown(f"the run has {len(columns[0]):,} ticks; {LEAST_BLOCKS} blocks of {block:,} are needed")
    there = varying(columns)
    if not there:
        raise NotKnown("none of the metrics varies")
    entropies, one = np.zeros(blocks), np.zeros(blocks)
    for number in there:
        column = columns[number]
        block_entropies(column, int(column.min()), int(column.max()), block, one)
        entropies += one
    entropies /= len(there)
    return float(slope(entropies))
