"""How much the learner is trusted: 0 (shadow), 10, 50 or 100 % of the way from the baseline's command to its own.

It rises one level after a stretch of evidence without a reason against it, and falls at once when there is one.
Falling makes the next rise harder, so that it does not go up and down.

Evidence that the learner is worth it comes from comparing: every few blocks of cycles one belongs to the baseline
alone. What the blocks of either earned on average, and how much that varies, says whether the learner costs anything.
"""

from __future__ import annotations

from dataclasses import dataclass

LEVELS = (0, 10, 50, 100)
BLOCK_CYCLES = 50
"""Cycles that belong together to the learner or to the baseline."""
SETTLING_CYCLES = 10
"""The first cycles of a block still show what the one before did, and do not count."""
SHIELDED_PER_THOUSAND = 10
"""More cycles out of the last thousand in which the shield had to change the learner's command are too many."""
STRANGE_PER_THOUSAND = 100
"""More cycles than that out of the last thousand in states that it was not trained in are too many."""
WINDOW_CYCLES = 1_000
REGRET_MICRO = 10_000
"""A learner may earn so much less a cycle than the baseline (millionths) before it counts."""
COMPARED_BLOCKS = 4
"""Blocks of either kind that a comparison needs."""
HARDEST = 16
"""A rise needs at most so many times the usual evidence."""


@dataclass
class _Earned:
    """Block means of one side: how many, their sum and the sum of their squares, in exact integers."""

    blocks: int = 0
    total: int = 0
    squares: int = 0

    def add(self, mean_micro: int) -> None:
        self.blocks += 1
        self.total += mean_micro
        self.squares += mean_micro * mean_micro

    def mean(self) -> int:
        return self.total // self.blocks

    def variance(self) -> int:
        """Of one block, in millionths squared."""
        return max(0, (self.squares - self.total * self.total // self.blocks) // (self.blocks - 1))


class Authority:
    """The level in force. `baseline_turn` says that this cycle is the baseline's, to compare with.

    `every` is how many blocks lie between two of the baseline's (0: it gets none, and nothing is compared).
    """

    def __init__(self, percent: int, most_percent: int, evidence_cycles: int, every: int) -> None:
        self._level = LEVELS.index(percent)
        self._most = LEVELS.index(most_percent)
        self._evidence_cycles = evidence_cycles
        self._every = every
        self._hardness = 1
        self._clean_cycles = 0
        self._cycle = 0
        self._shielded: list[int] = []
        self._strange: list[int] = []
        self._sides = (_Earned(), _Earned())
        self._block_total = 0
        self._block_count = 0
        self.why = "in shadow until there is evidence" if percent == 0 else "as set"

    @property
    def percent(self) -> int:
        """0, 10, 50 or 100."""
        return LEVELS[self._level]

    @property
    def baseline_turn(self) -> bool:
        """Whether this cycle belongs to the baseline, so that there is something to compare with."""
        return self._every > 0 and (self._cycle // BLOCK_CYCLES) % self._every == self._every - 1

    def state(self) -> list[int]:
        """Everything that decides what comes next, for a checkpoint."""
        sides = [number for side in self._sides for number in (side.blocks, side.total, side.squares)]
        return [self._level, self._hardness, self._clean_cycles, *sides]

    def restore(self, state: list[int]) -> None:
        """Go on from what `state()` said. Raises `ValueError` for what it cannot have said."""
        if len(state) != 9 or not 0 <= state[0] < len(LEVELS) or not 1 <= state[1] <= HARDEST:
            raise ValueError(f"{state} is no state of an authority")
        self._level = min(state[0], self._most)
        self._hardness, self._clean_cycles = state[1], state[2]
        self._sides = (_Earned(*state[3:6]), _Earned(*state[6:9]))

    def cycle(self, reward_micro: int, broken: str, shielded: bool, strange: bool) -> None:
        """A cycle is over: what it earned, what broke in the learner (empty: nothing), whether the shield had to change
        the learner's command, and whether the state was strange to it.
        """
        self._earn(reward_micro)
        self._cycle += 1
        self._note(self._shielded, shielded)
        self._note(self._strange, strange)
        reason = broken
        if not reason and len(self._shielded) * 1_000 > SHIELDED_PER_THOUSAND * WINDOW_CYCLES:
            reason = "the shield had to change its commands too often"
        if not reason and len(self._strange) * 1_000 > STRANGE_PER_THOUSAND * WINDOW_CYCLES:
            reason = "too many states that it was not trained in"
        if not reason and self._regrets():
            reason = "it earned less than the baseline"
        if reason:
            self._fall(reason, to_nothing=bool(broken))
        else:
            self._clean_cycles += 1
            if self._level < self._most and self._proved():
                self._rise()

    def _note(self, cycles: list[int], happened: bool) -> None:
        """Keep the numbers of the last thousand cycles in which it happened."""
        if happened:
            cycles.append(self._cycle)
        while cycles and cycles[0] <= self._cycle - WINDOW_CYCLES:
            cycles.pop(0)

    def _earn(self, reward_micro: int) -> None:
        place = self._cycle % BLOCK_CYCLES
        if place >= SETTLING_CYCLES:
            self._block_total += reward_micro
            self._block_count += 1
        if place == BLOCK_CYCLES - 1:
            if self._every > 0 and self._level > 0:
                self._sides[int(self.baseline_turn)].add(self._block_total // self._block_count)
            self._block_total = self._block_count = 0

    def _proved(self) -> bool:
        """Whether there is evidence enough for more. In shadow there is nothing to compare yet."""
        if self._clean_cycles < self._evidence_cycles * self._hardness:
            return False
        return self._level == 0 or self._every == 0 or min(side.blocks for side in self._sides) >= COMPARED_BLOCKS

    def _regrets(self) -> bool:
        """Whether the baseline's blocks earned more, by the margin and by two standard errors."""
        learner, baseline = self._sides
        if self._every == 0 or min(learner.blocks, baseline.blocks) < COMPARED_BLOCKS:
            return False
        lost = baseline.mean() - learner.mean()
        if lost <= REGRET_MICRO:
            return False
        error = learner.variance() // learner.blocks + baseline.variance() // baseline.blocks
        return lost * lost > 4 * error

    def _fall(self, reason: str, to_nothing: bool) -> None:
        if self._level > 0:
            self._level = 0 if to_nothing else self._level - 1
            self._hardness = min(HARDEST, 2 * self._hardness)
            self.why = f"lowered to {self.percent} %: {reason}"
        self._begin_again()

    def _rise(self) -> None:
        self._level += 1
        self.why = f"raised to {self.percent} % after {self._clean_cycles} clean cycles"
        self._begin_again()

    def _begin_again(self) -> None:
        self._clean_cycles = 0
        self._shielded.clear()
        self._strange.clear()
        self._sides = (_Earned(), _Earned())
