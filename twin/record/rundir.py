"""A run directory: what a run's files are called, who may write there, and the manifest that says it is complete."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from twin.record import files
from twin.record.digest import SIZE, text
from twin.record.files import PARTIAL, RecordError, RecordInputError
from twin.record.tables import TableSummary

SCENARIO = "scenario.toml"
SEAM_LOG = "seam.log"
TICKS = "ticks.parquet"
CONTROL = "control.parquet"
FINGERPRINT = "fingerprint.json"
MANIFEST = "manifest.json"
RUN_LOG = "run.log"
TRACE = "trace.csv"
TRACE_GZ = "trace.csv.gz"
"""The recording that drove the world, where one did, under the name that tells how it is stored."""
WEIGHTS = "weights.checkpoint"
"""The weights that a learner began with, where it did."""
ADVICE = "advice.jsonl"
"""The layouts that an advisor gave for the run's memory pool."""
PAGE = "page.link"
"""How to open the page of a run, while it goes on: with the token, so only its owner may read it."""
EXPORT = "export"
"""The folder inside a run directory that exports go to by default."""
REPORT = "report"
"""The folder inside a run directory that its report goes to by default."""

FILES = (SCENARIO, SEAM_LOG, TICKS, CONTROL, FINGERPRINT, MANIFEST, RUN_LOG, TRACE, TRACE_GZ, WEIGHTS, ADVICE, PAGE)
"""Every file of a run."""
COMPLETE = (SCENARIO, SEAM_LOG, TICKS, CONTROL, FINGERPRINT, MANIFEST)
"""What a run that ended well has."""
SCHEMA = "run/1"


def run_key(product_version: str, scenario: bytes, seed: int, config: str, law: str, source: str) -> str:
    """The key of everything that decides a run's bytes: BLAKE2b-256 in hex, 64 characters.

    `scenario` is the canonical scenario. `source` says where the readings come from: the backend's name if it gives
    the same ones each time, else something that no other run has, such as the time at which it began.
    """
    whole = blake2b(text(product_version), digest_size=SIZE)
    whole.update(len(scenario).to_bytes(8, "little") + scenario)
    whole.update(seed.to_bytes(8, "little"))
    whole.update(text(config) + text(law) + text(source))
    return whole.hexdigest()


class RunDirectory:
    """The directory of one run. Make one with `create` for a new run, or `open` for one that is there.

    While a run is written its directory is locked against other processes; `close` or the end of the process frees it.
    """

    def __init__(self, path: Path, manifest: Mapping[str, Any] | None, key: str | None, lock: int | None) -> None:
        """Not for callers: `create` and `open` check what this takes for granted."""
        self.path = path
        self.manifest = manifest
        """The manifest, None while the run is not complete."""
        self._key = key
        self._lock = lock

    @classmethod
    def create(cls, path: Path, key: str) -> RunDirectory:
        """The directory `path` for a new run with `key` (from `run_key`), empty.

        It may be there if it is empty, or if it holds a complete run with the same key and nothing else; that run is
        removed, for the new one will write the same bytes. Raises `RecordInputError` for anything else that is there,
        or when another process writes there, and `RecordError` when the system refuses.
        """
        lock: int | None = None
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _make_empty(path, key)
            files.sync_directory(path.parent)
        except OSError as error:
            if lock is not None:
                os.close(lock)
            if isinstance(error, FileExistsError):
                raise RecordInputError(path, "is a file; name a directory (--out)", error.errno) from error
            if isinstance(error, BlockingIOError):
                raise RecordInputError(
                    path, "is being written by another run; name another directory (--out)"
                ) from error
            raise files.failure(path, "making the run directory", error) from error
        except RecordError:
            if lock is not None:
                os.close(lock)
            raise
        return cls(path, None, key, lock)

    @classmethod
    def open(cls, path: Path, needs: tuple[str, ...] = COMPLETE) -> RunDirectory:
        """The run in `path`, with the files in `needs`; for a run that was cut short `(SEAM_LOG,)` is what there is.

        Raises `RecordInputError` when `path` is no run directory, a file in `needs` is missing or has not the size that
        the manifest says, or the manifest is none; and `RecordError` when the system refuses.
        """
        try:
            if not path.is_dir():
                raise RecordInputError(path, "is not a directory; name the directory of a run", errno.ENOENT)
            there = {name for name in FILES if (path / name).is_file()}
        except OSError as error:
            raise files.failure(path, "looking into the run directory", error) from error
        if there.isdisjoint((MANIFEST, SEAM_LOG, TICKS)):
            raise RecordInputError(path, f"is not a run directory: it has neither {MANIFEST} nor {SEAM_LOG}")
        missing = [name for name in needs if name not in there]
        if missing:
            cut_short = MANIFEST not in there and SEAM_LOG in there
            mend = (
                "the run was cut short; twin replay --out DIR brings back its tables" if cut_short else "run it again"
            )
            raise RecordInputError(path, f"has no {', '.join(missing)}; {mend}", errno.ENOENT)
        manifest = None
        if MANIFEST in there:
            manifest = files.read_json(path / MANIFEST)
            _check_manifest(path, manifest, needs)
        return cls(path, manifest, None, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def file(self, name: str) -> Path:
        """The path of the file `name`, one of `FILES`."""
        if name not in FILES:
            raise ValueError(f"{name!r} is not a file of a run; those are {', '.join(FILES)}")
        return self.path / name

    def write_manifest(
        self,
        versions: Mapping[str, str],
        digests: Mapping[str, str],
        tables: Mapping[str, TableSummary],
        facts: Mapping[str, str | int] | None = None,
    ) -> None:
        """Declare the run complete. All other files in `COMPLETE` must be there and closed.

        `versions` by package, `digests` by name, `tables` by file name without its end; `facts` is what else belongs
        there. Raises `RecordError` for a missing file or when the system refuses.
        """
        if self._key is None:
            raise ValueError(f"{self.path}: the manifest of a run that was opened for reading cannot be written")
        sizes: dict[str, dict[str, int]] = {}
        for name in COMPLETE:
            if name == MANIFEST:
                continue
            try:
                sizes[name] = {"bytes": (self.path / name).stat().st_size}
            except OSError as error:
                raise files.failure(self.path / name, "completing the run", error) from error
        manifest = {
            "schema": SCHEMA,
            "key": self._key,
            **(facts or {}),
            "versions": dict(versions),
            "digests": dict(digests),
            "tables": {
                name: {"rows": table.rows, "kept": table.kept, "digest": table.digest} for name, table in tables.items()
            },
            "files": sizes,
        }
        files.write_json(self.path / MANIFEST, manifest)
        self.manifest = manifest

    def close(self) -> None:
        """Let other processes write here. May be called twice."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _make_empty(path: Path, key: str) -> None:
    """Remove a complete run with `key`. Raises `RecordInputError` for anything else that is there, and `OSError`."""
    known = {*FILES, *(name + PARTIAL for name in FILES)}
    entries = sorted(entry.name for entry in path.iterdir())
    foreign = [name for name in entries if name not in known and name not in (EXPORT, REPORT)]
    if foreign:
        raise RecordInputError(
            path, f"has {foreign[0]!r}, which belongs to no run; name another directory (--out), or an empty one"
        )
    if not entries:
        return
    if MANIFEST not in entries:
        raise RecordInputError(
            path,
            "has an unfinished run; name another directory (--out), or delete it (twin replay shows what it has)",
        )
    there = files.read_json(path / MANIFEST).get("key")
    if there != key:
        raise RecordInputError(
            path, f"has a different run, with key {there}, and this one has key {key}; name another directory (--out)"
        )
    # Without its manifest the run is not complete, so a crash from here on leaves nothing that looks whole.
    for name in sorted(entries, key=lambda name: name != MANIFEST):
        if name not in (EXPORT, REPORT):
            (path / name).unlink()
    files.sync_directory(path)


def _check_manifest(path: Path, manifest: Mapping[str, Any], needs: tuple[str, ...]) -> None:
    schema = manifest.get("schema")
    if schema != SCHEMA:
        raise RecordInputError(path / MANIFEST, f"has schema {schema!r}; this program reads {SCHEMA!r}")
    digests = manifest.get("digests")
    if not isinstance(digests, dict) or not all(isinstance(digest, str) for digest in digests.values()):
        raise RecordInputError(path / MANIFEST, "has no table of digests; take it from a copy, or run again")
    sizes = manifest.get("files")
    for name in needs:
        if name == MANIFEST:
            continue
        said = sizes.get(name) if isinstance(sizes, dict) else None
        said_bytes = said.get("bytes") if isinstance(said, dict) else None
        size = (path / name).stat().st_size
        if name in COMPLETE and size != said_bytes:
            raise RecordInputError(
                path / name,
                f"has {size} bytes, and the manifest says {said_bytes}; take it from a copy, or replay the run",
            )
