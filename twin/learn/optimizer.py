"""The controller that learns: a baseline that always runs, and proposals around it that have to earn their authority.

Black-box Simplex (Seto and others, 1998; Mehmood and others, 2022): whatever the learner is, its command is used only
if full cooling from the next cycle on would still keep every limit; else the baseline's is. The shield comes after it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from hardware.interface import Limit
from twin.control.foresight import Foresight
from twin.control.shield import Shield
from twin.control.view import Controller, Decision, Learned, View
from twin.learn.actions import Proposals
from twin.learn.authority import Authority
from twin.learn.brain import MOST_MICRO, Brain, Thought
from twin.learn.reward import make_reward
from twin.scenario import ACTIONS, Scenario

log = logging.getLogger("twin")

NOOP = ACTIONS.index("noop")
_INT = frozenset((int,))
_WORDS = {percent: f"with {percent} % authority" for percent in range(101)}


class Optimizer:
    """Wraps a baseline. `brain` is everything that learns; it only sees states, rewards and executed actions."""

    def __init__(
        self, scenario: Scenario, limits: Mapping[str, Limit], baseline: Controller, checkpoint: Path | None = None
    ) -> None:
        """Begins with the weights in `checkpoint`, or draws them from the seed.

        Raises `RewardError` and `CheckpointError`.
        """
        settings = scenario.learn
        self.baseline = baseline
        self.brain = Brain(scenario, checkpoint)
        self.authority = Authority(
            settings.authority_percent,
            settings.authority_most_percent,
            settings.evidence_cycles,
            settings.compare_every_blocks,
        )
        self._limits = dict(limits)
        self._sensors = len(scenario.machine.sensors)
        self._fans = tuple(f"{fan.name}_pwm" for fan in scenario.machine.fans)
        self._proposals = Proposals(scenario, limits)
        self._foresight = Foresight(scenario, limits)
        self._reward = make_reward(scenario)
        self._reward_micro: int | None = None
        self._begun = False
        self._executed: int | None = None
        self._held_back = False
        self._base: Mapping[str, int] = {}
        self._asked: Mapping[str, int] = {}
        self._view: View | None = None
        self._shield = Shield(scenario, limits)
        self._thought: Thought | None = None
        self._acted = False
        self._broken = ""
        self._note = ""
        self._complained = False

    def decide(self, view: View) -> Decision:
        """The baseline's decision, or what the learner makes of it within its authority.

        Whatever goes wrong in the learner, the baseline's decision stands, and the learner loses its authority.
        """
        self._acted = False
        self._thought = None
        self._broken = self._note = ""
        self._reward_micro = None
        self._base = {}
        base = self.baseline.decide(view)
        self._base = base.command
        try:
            self._reward_micro = self._reward(view, self._held_back) if self._begun else None
            credited = None if self._executed is None else self._reward_micro
            self._thought = _checked(self.brain.think(view, self._executed, credited))
            return self._propose(view, base, self._thought)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self._break(error)
            return base

    def _break(self, error: BaseException) -> None:
        """The learner raised: nothing of this cycle is its doing. Only the first time is logged."""
        self._acted = False
        self._thought = None
        self._broken = self._note = f"the learner raised {type(error).__name__}"
        if not self._complained:
            self._complained = True
            log.error("%s; the baseline decides, and it begins in shadow again", self._broken, exc_info=error)

    def _propose(self, view: View, base: Decision, thought: Thought) -> Decision:
        percent = self.authority.percent
        action = ACTIONS[thought.action]
        self._note = self._why_not(view, base, thought, percent)
        if self._note or action == "noop":
            return base
        command = self._proposals.command(action, base.command, percent)
        if not self._foresight.keeps_limits(view, command):
            self._note = "full cooling might come too late after it"
            return base
        self._acted = True
        self._asked = command
        self._view = view
        return Decision(action, "neural", _WORDS[percent], command)

    def _why_not(self, view: View, base: Decision, thought: Thought, percent: int) -> str:
        """Why the baseline decides this cycle whatever is proposed; empty when the learner may."""
        if thought.broken:
            self._broken = thought.broken
            return thought.broken
        if view.failsafe:
            return "the shield cools fully"
        if percent == 0:
            return self.authority.why
        if self.authority.baseline_turn:
            return "the baseline's turn, to compare"
        if thought.strange:
            return thought.strange
        if base.command.keys() != self._limits.keys() or not _INT.issuperset(map(type, base.command.values())):
            return "the baseline's command is not complete"
        return ""

    def executed(self, values: Mapping[str, int], held_back: bool) -> Learned:
        """Credit what was applied, judge the authority, and tell the cycle's story."""
        told = _Told()
        try:
            self.brain.commanded(tuple([values.get(name, 255) for name in self._fans]))
            executed = NOOP
            if self._acted and self._thought is not None:
                executed = self._thought.action
                if held_back:
                    executed = self._proposals.nearest(values, self._base, self.authority.percent)
            told = _Told(_forecast(self.brain.forecast_millicelsius, self._sensors), _digest(self.brain.digest()))
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self._break(error)
            executed = NOOP
        thought = self._thought
        percent = self.authority.percent
        self.authority.cycle(
            self._reward_micro if self._reward_micro is not None else 0,
            self._broken,
            self._acted and held_back and self._to_blame(values),
            thought is not None and bool(thought.strange),
        )
        # Without a thought there was no choice that could be credited.
        self._executed = None if thought is None else executed
        self._held_back = held_back
        self._begun = True
        return Learned(
            proposed=ACTIONS[NOOP if thought is None else thought.action],
            executed=ACTIONS[executed],
            authority_percent=percent,
            reward_micro=self._reward_micro,
            forecast_millicelsius=told.forecast_millicelsius or (None,) * self._sensors,
            anomaly_micro=None if thought is None else thought.anomaly_micro,
            weights=told.weights,
            note=self._note,
        )

    def insight(self) -> dict[str, dict[str, float | None]]:
        """What the learner thinks now (`Brain.insight`). Asking changes nothing, and not asking costs nothing."""
        return self.brain.insight()

    def _to_blame(self, values: Mapping[str, int]) -> bool:
        """Whether the shield changed something that it would have left as it was in the baseline's command."""
        assert self._view is not None
        of_baseline = self._shield.project(self._view, self._base).values
        return any(
            values.get(name) != self._asked.get(name) and value == self._base.get(name)
            for name, value in of_baseline.items()
        )


class _Told(NamedTuple):
    """What the brain tells for the record alone; nothing where it could not."""

    forecast_millicelsius: tuple[int | None, ...] = ()
    weights: str = ""


def _checked(thought: Thought) -> Thought:
    """The thought, if it is one that can be followed and written down. Raises `ValueError`."""
    if type(thought) is not Thought or type(thought.action) is not int or not 0 <= thought.action < len(ACTIONS):
        raise ValueError(f"{str(thought)[:200]} names none of the {len(ACTIONS)} actions")
    for words in (thought.strange, thought.broken):
        if type(words) is not str or not words.isascii():
            raise ValueError(f"{str(thought)[:200]} gives reasons that are no plain texts")
    if type(thought.anomaly_micro) is not int or not 0 <= thought.anomaly_micro <= MOST_MICRO:
        raise ValueError(f"{str(thought)[:200]} has an anomaly outside of 0 to {MOST_MICRO}")
    return thought


def _forecast(values: tuple[int | None, ...], sensors: int) -> tuple[int | None, ...]:
    """The forecast, if the record can hold it. Raises `ValueError`."""
    if type(values) is not tuple or len(values) != sensors:
        raise ValueError(f"a forecast of {sensors} temperatures is needed, not {str(values)[:200]}")
    for value in values:
        if value is not None and (type(value) is not int or abs(value) > MOST_MICRO):
            raise ValueError(f"{str(value)[:200]} is no temperature")
    return values


def _digest(text: str) -> str:
    """The digest of the weights, if it is a text. Raises `ValueError`."""
    if type(text) is not str or not text.isascii():
        raise ValueError(f"{str(text)[:200]} is no digest")
    return text
