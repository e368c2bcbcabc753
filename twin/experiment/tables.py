"""The Parquet shards of an experiment."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from twin.experiment.jobs import Outcome
from twin.fingerprint.run import FIELDS
from twin.record import arrow
from twin.record.recorder import TICK_COLUMNS

if TYPE_CHECKING:
    import pyarrow as pa

RUN_SCHEMA = "runs/1"
_IDENTITY = ("run_id", "configuration", "seed", "ticks", "tick_digest", "control_digest", "run_digest")
_KINDS = {
    "converged": "bool", "jitter_is_white": "bool", "jitter_is_normal": "bool",
    "convergence_time_ticks": "int64", "settling_time_ticks": "int64", "cache_rise_time_ticks": "int64",
    "decay_rise_time_ticks": "int64", "load_to_heartbeat_lag_ticks": "int64", "load_to_cache_lag_ticks": "int64",
    "heartbeat_to_cache_lag_ticks": "int64", "max_temp_millicelsius": "int64", "time_over_limit_ns": "int64",
    "latency_p99_ns": "int64",
}  # fmt: skip
"""Types of the fields that are no real numbers."""


def run_schema() -> pa.Schema:
    """The columns of a shard of runs: what a run is, the fields of its fingerprint, and `reasons` as JSON."""
    import pyarrow as pa

    fields = [pa.field("run_id", pa.uint32()), pa.field("configuration", pa.string()), pa.field("seed", pa.uint64())]
    fields += [pa.field("ticks", pa.uint32())]
    fields += [pa.field(name, pa.string()) for name in _IDENTITY[4:]]
    for name in FIELDS:
        if name == "metric_correlation_matrix":
            fields.append(pa.field(name, pa.list_(pa.float64())))
        else:
            kind = {"bool": pa.bool_(), "int64": pa.int64()}.get(_KINDS.get(name, ""), pa.float64())
            fields.append(pa.field(name, kind))
    return pa.schema([*fields, pa.field("reasons", pa.string())], metadata={"twin.schema": RUN_SCHEMA})


def run_row(outcome: Outcome) -> dict[str, Any]:
    """A run as a row of that table. The 7 x 7 matrix lies row after row; null where a metric does not vary."""
    found = {name: outcome.result.get(name) for name in FIELDS}
    matrix = found["metric_correlation_matrix"]
    if matrix is not None:
        found["metric_correlation_matrix"] = [value for row in matrix for value in row]
    return {
        "run_id": outcome.number,
        "configuration": outcome.candidate,
        "seed": outcome.seed,
        "ticks": outcome.ticks,
        "tick_digest": outcome.tick_digest,
        "control_digest": outcome.control_digest,
        "run_digest": outcome.run_digest,
        **found,
        "reasons": json.dumps(outcome.result.get("reasons", {}), sort_keys=True),
    }


def run_table(outcomes: Iterable[Outcome]) -> pa.Table:
    """These runs as a table."""
    import pyarrow as pa

    return pa.Table.from_pylist([run_row(outcome) for outcome in outcomes], schema=run_schema())


def write_runs(place: BinaryIO, outcomes: Iterable[Outcome]) -> None:
    """Write a shard of runs."""
    import pyarrow.parquet as pq

    pq.write_table(run_table(outcomes), place, compression="zstd", write_page_checksum=True)


def write_ticks(place: BinaryIO, first: bytes, others: Iterable[bytes]) -> None:
    """Write a shard of ticks from the Parquet bytes of its runs, a row group a run."""
    import pyarrow.parquet as pq

    def every() -> Iterator[bytes]:
        yield first
        yield from others

    with arrow.writer(place, TICK_COLUMNS) as writer:
        for blob in every():
            writer.write_table(pq.read_table(BytesIO(blob)))


def shards(folder: Path, kind: str) -> list[Path]:
    """The files of one kind (`runs` or `ticks`) in an experiment's directory, in order."""
    return sorted(folder.glob(f"{kind}-*.parquet"))
