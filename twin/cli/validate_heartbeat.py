"""`twin validate heartbeat`: a recorded heartbeat, replayed through the reference law."""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from twin.cli import ANSWER_IS_NO, DONE, InputError, output
from twin.heart.recorded import RecordingError, Settings, Verdict, judge, read_rows

GZIP = b"\x1f\x8b"


def main(options: argparse.Namespace) -> int:
    """Say how many transitions were judged and how many of them the law does not give."""
    settings = Settings(
        t0_ns=_within("--t0-ns", options.t0_ns),
        inference_ticks=_within("--inference-ticks", options.inference_ticks),
        cv_threshold=_finite("--cv-threshold", options.cv_threshold),
        temporal_threshold=_finite("--temporal-threshold", options.temporal_threshold),
    )
    path = Path(options.trace)
    try:
        with _opened(path) as text:
            verdict = judge(read_rows(csv.reader(text, strict=True)), settings)
    except RecordingError as error:
        raise InputError(f"{path}: {error}") from None
    if options.json:
        output.print_json(asdict(verdict))
    else:
        _print(path, verdict)
    return ANSWER_IS_NO if verdict.l7_mismatches or verdict.l8_mismatches else DONE


def _within(name: str, value: int) -> int:
    if not 1 <= value < 1 << 63:
        raise InputError(f"{name} is {value}; allowed are whole numbers from 1 to {(1 << 63) - 1}")
    return value


def _finite(name: str, value: float) -> float:
    if not -1e300 <= value <= 1e300:
        raise InputError(f"{name} is {value}; allowed are numbers, those of the recorded machine are 0 to 2")
    return value


@contextmanager
def _opened(path: Path) -> Iterator[io.TextIOWrapper]:
    """A recording as text, decompressed when it is compressed; whatever is wrong with its bytes is bad input."""
    try:
        with path.open("rb") as file:
            compressed = file.read(len(GZIP)) == GZIP
            file.seek(0)
            if path.suffix == ".gz" and not compressed:
                raise InputError(f"{path}: not a gzip file, as its name says; compress it, or take .gz off its name")
            with io.TextIOWrapper(gzip.GzipFile(fileobj=file) if compressed else file, "utf-8-sig", newline="") as text:
                yield text
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise InputError(f"{path}: there is no such file; name a recording, a CSV file or one in gzip") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path}: the gzip file is damaged ({error}); fetch it again") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text; a recording is a CSV file or one in gzip") from None
    except csv.Error as error:
        raise InputError(f"{path}: not a CSV file ({error})") from None


def _print(path: Path, verdict: Verdict) -> None:
    output.print_table(
        str(path),
        ("loop", "judged", "mismatches"),
        [
            ("L7 interval", f"{verdict.l7_transitions} transitions", str(verdict.l7_mismatches)),
            ("L8 mode", f"{verdict.l8_ticks} ticks", str(verdict.l8_mismatches)),
        ],
    )
    if verdict.mismatches:
        output.print_table(
            "First mismatches",
            ("loop", "line", "tick", "column", "recorded", "expected"),
            [
                (wrong.loop, str(wrong.line), str(wrong.tick_number), wrong.column, str(wrong.recorded), wrong.expected)
                for wrong in verdict.mismatches
            ],
        )
