"""Heat and tiers of blocks: how an access warms a block, how time cools it, and what that makes of its tier.

Heat is Q48.16: 65536 is one access (for a dictionary word: one execution). It cools as dH/dt = -S * (1 + H / `KNEE`):
a cold block loses S a microsecond and reaches 0, and each `KNEE` of heat on top loses as much again. Under a steady
load heat therefore settles where loss and gain agree, instead of growing until it meets a limit.

Tiers move one step at a time: up at an access above `PROMOTED_ABOVE`, down at a sweep below `DEMOTED_BELOW`.

Bounds. Heat is at most `HEAT_MAX` = 2^40 (16.7 million accesses), the slope at most `SLOPE_MAX` = 2^16, so that heat
plus knee times the largest share (2^18 of 2^20) stays below 2^59.
"""

from __future__ import annotations

from twin.kernels import Integers, kernel
from twin.pool.layout import COLD, FROZEN, H_HEAT, H_SIZE, H_STAMP, HOT

ONE_EXECUTION = 65_536
HEAT_MAX = 1 << 40
SLOPE_MAX = 1 << 16
KNEE_BITS = 20
KNEE = 1 << KNEE_BITS
"""The heat (16 accesses) at which a block loses twice the slope."""
STEP = KNEE // 4
"""The longest cooling taken in one step, in parts of `KNEE`: the series below is within 0.3 % up to there."""
LONGEST_IDLE_US = 1 << 45
"""407 days; longer is no colder."""
PROMOTED_ABOVE = 100 * ONE_EXECUTION
DEMOTED_BELOW = 10 * ONE_EXECUTION


@kernel
def decayed(heat: int, idle_us: int, slope_q48_per_us: int) -> int:
    """Heat (0..`HEAT_MAX`) after `idle_us` microseconds without access; never negative, never more than before.

    `heat + KNEE` falls by the factor exp(-idle * slope / KNEE), taken as 1 - y + y^2/2 in steps of at most a quarter.
    A clock that went backwards cools nothing.
    """
    # At most 2^45 * 2^16 = 2^61. Heats of 2^40 are at 0 after 57 steps.
    left = min(max(idle_us, 0), LONGEST_IDLE_US) * slope_q48_per_us
    while left > STEP and heat > 0:
        heat = cooled(heat, STEP)
        left -= STEP
    return cooled(heat, min(left, STEP))


@kernel
def cooled(heat: int, left: int) -> int:
    """Heat after one step of cooling: `left` is idle time times slope, 0..`STEP`."""
    lifted = heat + KNEE
    lifted -= (lifted * (left - (left * left >> (KNEE_BITS + 1)))) >> KNEE_BITS
    return max(lifted - KNEE, 0)


@kernel
def longest_step(slope_q48_per_us: int) -> int:
    """The longest idle time in microseconds that one step of cooling can take at this slope."""
    return STEP // slope_q48_per_us if slope_q48_per_us > 0 else LONGEST_IDLE_US


@kernel
def promoted(tier: int, heat: int) -> int:
    """The tier after an access that left this heat: one step hotter above `PROMOTED_ABOVE`."""
    return tier - int((heat > PROMOTED_ABOVE) & (tier > HOT))


@kernel
def demoted(tier: int, heat: int) -> int:
    """The tier after a sweep that found this heat: one step colder below `DEMOTED_BELOW`."""
    return tier + int((heat < DEMOTED_BELOW) & (tier < FROZEN))


@kernel
def foretold(tier: int) -> int:
    """The tier of a block that is expected to be needed next: COLD and FROZEN come one step up."""
    return tier - int(tier >= COLD)


@kernel
def touch(cells: Integers, block: int, now_us: int, slope_q48_per_us: int) -> int:
    """An access to the block whose header is at cell `block`: cool it to now, add one access, move its tier.

    Returns the steps that its tier moved: 0, or -1 for one step hotter.
    """
    heat = decayed(cells[block + H_HEAT], now_us - cells[block + H_STAMP], slope_q48_per_us)
    heat = min(heat + ONE_EXECUTION, HEAT_MAX)
    size = cells[block + H_SIZE]
    move = promoted(size & 3, heat) - (size & 3)
    cells[block + H_HEAT] = heat
    cells[block + H_STAMP] = max(now_us, cells[block + H_STAMP])
    cells[block + H_SIZE] = size + move
    return int(move)


@kernel
def sweep(cells: Integers, block: int, now_us: int, slope_q48_per_us: int) -> int:
    """The background's visit to the block whose header is at cell `block`: cool it to now, move its tier.

    Returns the steps that its tier moved: 0, or 1 for one step colder.
    """
    heat = decayed(cells[block + H_HEAT], now_us - cells[block + H_STAMP], slope_q48_per_us)
    size = cells[block + H_SIZE]
    move = demoted(size & 3, heat) - (size & 3)
    cells[block + H_HEAT] = heat
    cells[block + H_STAMP] = max(now_us, cells[block + H_STAMP])
    cells[block + H_SIZE] = size + move
    return int(move)
