"""Runs and experiments from Python, with results as data frames. `import twin` gives `twin.run` and `twin.Experiment`.

    import twin

    result = twin.run("gaming", duration=10, seed=3)
    result.fingerprint["load_to_heartbeat_corr"]
    result.ticks[["elapsed_ns", "tick_interval_ns", "load_ppm"]]
    result.control["cpu_temp_millicelsius"].max()

    experiment = twin.Experiment("demo", settings={"runs": 2, "ticks": 2_000}, out="small")
    experiment.run()
    experiment.runs.groupby("configuration")["overall_stability_score"].mean()

Columns have their units at the end of their names. A value that is not known is `pandas.NA`, and never 0.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from hardware.interface import Limit
from twin.control.view import Controller
from twin.loader import checkpoint_path, find, input_digests, load, trace_path
from twin.record.recorder import Recorded

if TYPE_CHECKING:
    import pandas as pd

    from twin.experiment.conduct import Summary
    from twin.scenario import Scenario

MakeController = Callable[["Scenario", Mapping[str, Limit]], Controller]
Setting = bool | int | float | str | Sequence[Any] | Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """A run that was kept in memory.

    `fingerprint` is as in `fingerprint.json`; the digests are those that `twin run` would have written, in lower-case
    hex; `missing` are the channels that never had a value. `unrestored` has each output of the machine that could not
    be given back, and why; `twin restore` tries again.
    """

    scenario: Scenario
    fingerprint: dict[str, Any]
    tick_digest: str
    control_digest: str
    run_digest: str
    missing: list[str]
    recorded: Recorded
    unrestored: tuple[tuple[str, str], ...] = ()

    @property
    def ticks(self) -> pd.DataFrame:
        """One row a heartbeat tick, columns as in schema `tick/1`, without `run_id` and `config`."""
        import pandas as pd

        from twin.record.recorder import TICK_NAMES

        assert self.recorded.captured is not None
        return pd.DataFrame(dict(zip(TICK_NAMES, self.recorded.captured, strict=True)))

    @property
    def control(self) -> pd.DataFrame:
        """One row a control cycle, columns as in schema `control/1`; `pandas.NA` where there is no value."""
        import pandas as pd

        rows, columns = self.recorded.rows, self.recorded.columns
        values = zip(*rows, strict=True) if rows else [()] * len(columns)
        kinds = {True: "Int64", False: "int64"}
        return pd.DataFrame({
            column.name: pd.Series(list(each), dtype="string" if column.kind == "str" else kinds[column.nullable])
            for column, each in zip(columns, values, strict=True)
        })  # fmt: skip


def run(
    scenario: str | Path,
    *,
    backend: str = "simulated",
    root: str | Path | None = None,
    act: bool = False,
    duration: float | None = None,
    seed: int | None = None,
    config: str | None = None,
    law: str | None = None,
    settings: Mapping[str, Setting] | None = None,
    controller: MakeController | None = None,
    machine: str | Path | None = None,
) -> Run:
    """Run a scenario and keep everything in memory.

    `scenario` is the name of a shipped one or a TOML file, `duration` in seconds, `settings` any of the scenario's keys
    (`{"heartbeat.words": 256}`). `backend` is `simulated`, `lockstep` or `linux`; the last reads the machine below
    `root` (default `/`) in wall time, and writes to it only with `act`. `controller` makes a controller of your own
    from the scenario and the outputs' limits; left out, the scenario says which. `machine` is a shipped machine or a
    machine file, in place of the scenario's own.

    Raises `ScenarioError` with everything that is wrong, and `ValueError` for a backend that is not there.
    """
    from twin.cli import BACKENDS
    from twin.cli.backends import Access, opened
    from twin.cli.run import run_digests, warm_up
    from twin.control.choose import make_controller
    from twin.fingerprint.run import run_fingerprint
    from twin.loop import Loop
    from twin.machines import load_machine
    from twin.record.memory import MemoryRecorder
    from twin.world.trace import load_trace

    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}; allowed are {', '.join(BACKENDS)}")
    named: dict[str, Setting] = {
        key: value
        for key, value in (
            ("seed", seed),
            ("duration_ms", None if duration is None else round(duration * 1_000)),
            ("heartbeat.config", config),
            ("heartbeat.law", law),
        )
        if value is not None
    }
    table = None if machine is None else load_machine(str(machine)).table
    chosen = load(str(scenario), _overrides({**(settings or {}), **named}), table)
    source = find(str(scenario))
    inputs = input_digests(chosen, source)
    path, weights = trace_path(chosen, source), checkpoint_path(chosen, source)
    trace = None if path is None or chosen.workload.trace is None else load_trace(path, chosen.workload.trace)
    if backend == "linux":
        # In wall time a kernel that is compiled in the middle of a run would make a tick late.
        warm_up(chosen, trace)
    with ExitStack() as stack:
        opened_backend = stack.enter_context(
            opened(backend, chosen, None if root is None else Path(root), trace, Access(act=act))
        )
        hardware, acted = opened_backend.hardware, opened_backend.acted
        if acted is not None:
            acted.begun()
        make = controller or partial(make_controller, checkpoint=weights)
        recorder = MemoryRecorder(chosen, hardware.sensors, hardware.limits)
        loop = Loop(opened_backend.env, hardware, chosen, make(chosen, hardware.limits), recorder, watcher=acted)
        loop.run()
        recorded = recorder.close()
    digests = run_digests(chosen, inputs, recorded)
    missed = {"missed_ticks": loop.heart.missed, "missed_cycles": loop.missed_cycles}
    fingerprint = run_fingerprint(recorded.captured, chosen.heartbeat.words, {**missed, **recorded.figures})
    unrestored = () if acted is None else acted.unrestored
    return Run(
        chosen, fingerprint, **digests, missing=recorded.missing, recorded=recorded, unrestored=unrestored
    )  # fmt: skip


def _overrides(settings: Mapping[str, Setting]) -> list[str]:
    """`key=value` as TOML has it."""
    return [f"{key}={_toml(key, value)}" for key, value in settings.items()]


def _toml(key: str, value: object) -> str:
    """A value of `key` in one line of TOML. Raises `TypeError` for what TOML has no word for."""
    if not isinstance(value, bool | int | float | str) and hasattr(value, "tolist"):
        # NumPy's numbers and arrays become Python's.
        value = value.tolist()
    if isinstance(value, float):
        # TOML has inf and nan, too, and wants a digit after the point as Python writes it.
        return repr(float(value))
    if isinstance(value, bool | int):
        return json.dumps(value)
    if isinstance(value, str | Path):
        # JSON lets the delete character stand as it is, TOML does not.
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_toml(key, str(name))} = {_toml(key, each)}" for name, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(key, each) for each in value) + "]"
    raise TypeError(
        f"settings: {key} has a value of type {type(value).__name__}; allowed are numbers, texts, lists and tables"
    )


class Experiment:
    """A plan and the directory of its results.

    `plan` is the name of a shipped plan or a TOML file, `settings` any of its keys (`{"runs": 3}`; a table or a list
    stands instead of the plan's), `out` the directory (default: one of the plan's own below `experiments/`). Raises
    `PlanError` with everything that is wrong.

    What is asked of its results raises `ExperimentError` where the directory has none, not all of them yet, or those of
    another plan.
    """

    def __init__(
        self, plan: str | Path, *, settings: Mapping[str, Any] | None = None, out: str | Path | None = None
    ) -> None:
        from twin.cli.experiment import folder_of
        from twin.experiment.plan import load_plan

        self.plan = load_plan(str(plan), _overrides(settings or {}))
        self.directory = Path(out) if out is not None else folder_of(self.plan)
        self.summary: Summary | None = None

    def run(
        self,
        *,
        engine: str = "local",
        workers: int | None = None,
        scheduler: str | None = None,
        progress: Callable[[int, int, int], None] | None = None,
    ) -> Self:
        """Do what is not done yet. Interrupt it as you like: the same call goes on.

        `engine` is `local` (`workers` processes, default one for each processor) or `dask` (the cluster at `scheduler`,
        or a local one). `progress` hears how many jobs are done, how many of them by this call, and their ticks. Raises
        `EngineError`, `ExperimentError` (the directory has results of something else) and `RecordError`.
        """
        from twin.cli.experiment import engine_of, kinds_of
        from twin.cli.simulate import perform, warm
        from twin.experiment.conduct import conduct

        hand = engine_of(engine, workers, scheduler)
        for candidate in kinds_of(self.plan):
            warm(candidate)
        self.summary = conduct(self.plan, self.directory, hand, perform, progress or (lambda *_: None))
        return self

    @property
    def golden(self) -> dict[str, Any]:
        """The choice, as in `golden.json`."""
        from twin.experiment.conduct import CHOICE
        from twin.record.files import read_json

        self._finished()
        return read_json(self.directory / CHOICE)

    @property
    def runs(self) -> pd.DataFrame:
        """One row a run: what it is, and its fingerprint. Within a matrix, what is not known is NaN."""
        return self._frame("runs")

    def ticks(self, configuration: str | None = None) -> pd.DataFrame:
        """The ticks that the plan keeps, of all runs or of one configuration's. Ten million rows need 1.7 GB.

        Raises `ValueError` for a configuration that the plan has not.
        """
        names = [candidate.name for candidate in self.plan.candidates]
        if configuration is None:
            return self._frame("ticks")
        if configuration not in names:
            raise ValueError(f"configuration is {configuration!r}; allowed are {', '.join(names)}")
        runs = self._frame("runs", ["run_id", "configuration"])
        mine = runs.loc[runs["configuration"] == configuration, "run_id"]
        frame = self._frame("ticks")
        return frame[frame["run_id"].isin(mine)].reset_index(drop=True)

    @property
    def configurations(self) -> pd.DataFrame:
        """One row a configuration: its fingerprint, and its points in the choice; the best one first."""
        import pandas as pd

        choice = self.golden
        rows: list[dict[str, Any]] = []
        for entry in choice["ranking"]:
            low, high = entry["interval"] or (None, None)
            fields = {
                k: v for k, v in choice["configurations"][entry["name"]].items() if k not in ("schema", "reasons")
            }
            rows.append({
                "configuration": entry["name"], "total": entry["total"], "total_low": low, "total_high": high,
                "probability_best": entry["probability_best"], **fields,
            })  # fmt: skip
        return pd.DataFrame({name: _column([row.get(name) for row in rows]) for name in rows[0]})

    def _finished(self) -> None:
        """Raise `ExperimentError` unless the directory has all results of this plan."""
        from twin.experiment.store import MANIFEST, ExperimentError, Store

        if not (self.directory / MANIFEST).is_file():
            raise ExperimentError(self.directory, "has no results of an experiment; call run() first")
        with Store(self.directory) as store:
            if store.fact("plan") != self.plan.digest:
                raise ExperimentError(
                    self.directory, "has results of another plan; name its own settings, or another directory (out)"
                )
            if store.fact("experiment_digest") is None:
                raise ExperimentError(self.directory, "the experiment is not finished; call run(), and it goes on")

    def _frame(self, kind: str, columns: list[str] | None = None) -> pd.DataFrame:
        import pandas as pd

        from twin.experiment.store import ExperimentError
        from twin.experiment.tables import shards

        self._finished()
        files = shards(self.directory, kind)
        if not files:
            why = "the plan keeps none" if kind == "ticks" and self.plan.file.keep == "none" else "its files are gone"
            raise ExperimentError(self.directory, f"has no {kind}: {why}")
        frame = pd.concat(
            [pd.read_parquet(path, columns=columns, dtype_backend="numpy_nullable") for path in files],
            ignore_index=True,
        )
        for name in frame.select_dtypes("object"):
            frame[name] = frame[name].where(frame[name].notna(), pd.NA)
        return frame


def _column(values: Sequence[Any]) -> pd.Series[Any]:
    """Values of one kind, or None, as a column in which None is `pandas.NA`."""
    import pandas as pd

    kinds = {type(value) for value in values if value is not None}
    if not kinds <= {bool, int, float, str} or len(kinds - {int, float}) > 1:
        return pd.Series([pd.NA if value is None else value for value in values], dtype=object)
    kind = "boolean" if bool in kinds else "string" if str in kinds else "Int64" if kinds == {int} else "Float64"
    return pd.Series(list(values), dtype=kind)
