"""Crystal Core for a run: the pool, its advisor, and the telemetry that goes into it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hardware.interface import Limit
from twin.control.cycle import Cycle
from twin.heart.ticks import C_SLOPE
from twin.kernels import Integers
from twin.record.rundir import ADVICE
from twin.scenario import Scenario
from twin.telemetry import Telemetry

if TYPE_CHECKING:
    from twin.pool.crystal import Crystal

log = logging.getLogger("twin")


@dataclass(frozen=True, slots=True)
class Core:
    """A run's pool, as a watcher of its loop."""

    crystal: Crystal
    telemetry: Telemetry

    def cycle(self, cycle: Cycle, tick: Integers | None) -> None:
        """Hand the cycle's record over."""
        slope_q48 = None if tick is None else int(tick[C_SLOPE])
        self.crystal.cycle(cycle.number, cycle.due_ns // 1_000, self.telemetry.values(cycle, tick), slope_q48)

    def words(self) -> str:
        """What the pool is like now, for the status lines."""
        from twin.pool.survey import survey, words_for

        return words_for(survey(self.crystal.pool))


@contextlib.contextmanager
def crystal_core(
    scenario: Scenario, limits: Mapping[str, Limit], run: Path, recorded: Path | None = None
) -> Iterator[Core | None]:
    """The pool of a run in the directory `run`; None when the scenario shares none.

    Layouts come from the scenario's advisor and are recorded in `run`, or from the recording of the run `recorded`.
    """
    if not scenario.pool.shared:
        yield None
        return
    # Imported here, because most runs need none of it.
    from twin.pool.advice import AdviceLog, RecordedAdvisor
    from twin.pool.advisor import Advisor, make_advisor
    from twin.pool.crystal import Crystal

    telemetry = Telemetry(scenario, limits)
    with contextlib.ExitStack() as stack:
        advice: AdviceLog | None = None
        if recorded is not None:
            advisor: Advisor | None = RecordedAdvisor(recorded / ADVICE, scenario.heartbeat.words)
        else:
            chosen = scenario.pool.advisor
            advisor = make_advisor(chosen.kind, chosen.url, chosen.model, chosen.key_variable, chosen.time_limit_ms)
            advice = stack.enter_context(AdviceLog(run / ADVICE)) if advisor is not None else None
        crystal = stack.enter_context(
            Crystal(scenario.pool, scenario.heartbeat.words, run, telemetry.fields, advisor, advice)
        )
        core = Core(crystal, telemetry)
        log.info("Crystal Core: %s", core.words())
        yield core
        log.info("Crystal Core at the end: %s", core.words())
        if advisor is not None and advisor.counts.asked:
            log.info("layout advisor: %s", advisor.counts)
