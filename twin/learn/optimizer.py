"""The controller that learns: a baseline that always runs, and proposals around it that have to earn their authority.

Black-box Simplex (Seto and others, 1998; Mehmood and others, 2022): whatever the learner is, its command is used only
if full cooling from the next cycle on would still keep every limit; else the baseline's is. The shield comes after it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from hardware.interface import Limit
from twin.control.foresight import Foresight
from twin.control.view import Controller, Decision, Learned, View
from twin.learn.actions import Proposals
from twin.learn.authority import Authority
from twin.learn.brain import Brain, Thought
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
        self._fans = tuple(f"{fan.name}_pwm" for fan in scenario.machine.fans)
        self._proposals = Proposals(scenario, limits)
        self._foresight = Foresight(scenario, limits)
        self._reward = make_reward(scenario)
        self._reward_micro: int | None = None
        self._executed: int | None = None
        self._held_back = False
        self._base: Mapping[str, int] = {}
        self._thought: Thought | None = None
        self._acted = False
        self._broken = ""
        self._note = ""

    def decide(self, view: View) -> Decision:
        """The baseline's decision, or what the learner makes of it within its authority.

        Whatever goes wrong in the learner, the baseline's decision stands, and the learner loses its authority.
        """
        base = self.baseline.decide(view)
        self._acted = False
        self._thought = None
        self._broken = self._note = ""
        self._base = base.command
        self._reward_micro = None if self._executed is None else self._reward(view, self._held_back)
        try:
            self._thought = self.brain.think(view, self._executed, self._reward_micro)
            return self._propose(view, base, self._thought)
        except Exception as error:
            self._broken = f"the learner raised {type(error).__name__}"
            log.exception("%s; the baseline decides, and it begins in shadow again", self._broken)
            return base

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
        thought = self._thought
        proposed = NOOP if thought is None else thought.action
        executed = NOOP
        if self._acted:
            executed = proposed
            if held_back:
                executed = self._proposals.nearest(values, self._base, self.authority.percent)
        self.brain.commanded(tuple([values.get(name, 255) for name in self._fans]))
        percent = self.authority.percent
        self.authority.cycle(
            self._reward_micro if self._reward_micro is not None else 0,
            self._broken,
            self._acted and held_back,
            thought is not None and bool(thought.strange),
        )
        self._executed = executed
        self._held_back = held_back
        return Learned(
            proposed=ACTIONS[proposed],
            executed=ACTIONS[executed],
            authority_percent=percent,
            reward_micro=self._reward_micro,
            forecast_millicelsius=self.brain.forecast_millicelsius,
            anomaly_micro=None if thought is None else thought.anomaly_micro,
            weights=self.brain.digest(),
            note=self._note,
        )
