"""Checkpoints: what has been learned, in one file that is whole and true or refused.

The format, version 1; integers are little-endian. Magic (8 bytes), version (u32), length of the header (u32), the
header (canonical JSON: `arrays` with name, dtype and shape in the order of their names, and `facts`), the arrays'
values one after another, row by row, 8 bytes each, and BLAKE2b-256 over everything before.

A file is written under a temporary name, synced and renamed; the last `KEPT` stay, as `path`, `path.1` and `path.2`.
"""

from __future__ import annotations

import json
import logging
import os
import re
import stat
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from twin.record import files
from twin.record.digest import SIZE, text
from twin.record.files import RecordError

log = logging.getLogger("twin")

Array = npt.NDArray[np.float64] | npt.NDArray[np.int64]
Layout = Mapping[str, tuple[tuple[int, ...], str]]
"""Name -> (shape, `float64` or `int64`)."""

MAGIC = b"\x89twinML\n"
VERSION = 1
KEPT = 3
FILE_MOST = 64 << 20
"""Bytes that a checkpoint may have."""
HEADER_MOST = 1 << 20
DIMENSIONS_MOST = 8
FACT_MOST = 4_096
"""Characters that a fact may have."""
DTYPES = {"float64": "<f8", "int64": "<i8"}
_LITTLE = sys.byteorder == "little"
_BYTES = {"f": np.dtype("<f8"), "i": np.dtype("<i8")}

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_NAMES = "1 to 64 of A-Z, a-z, 0-9, _, . and -, the first a letter or digit"
_PREFIX = len(MAGIC) + 8
_MEND = "take it from a copy, or name another checkpoint (learn.checkpoint)"


class CheckpointError(RecordError):
    """A checkpoint could not be written, or what was read is none that can be used."""

    def __reduce__(self) -> tuple[Any, ...]:
        """So that it comes out of another process as it is."""
        return type(self), (self.path, str(self).removeprefix(f"{self.path}: "), self.errno)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a file held: arrays of one's own by name, facts about them, and the file's digest (64 hex characters)."""

    path: Path
    arrays: Mapping[str, Array]
    facts: Mapping[str, str | int]
    digest: str


def layout_of(arrays: Mapping[str, Array]) -> Layout:
    """The layout that `load` may be told to expect."""
    return {name: (array.shape, array.dtype.name) for name, array in arrays.items()}


def digest_of(arrays: Mapping[str, Array]) -> str:
    """BLAKE2b-256 in hex over name, dtype, shape and values of every array, in the order of their names."""
    whole = blake2b(digest_size=SIZE)
    for name, array in sorted(arrays.items()):
        whole.update(text(name) + text(array.dtype.name) + len(array.shape).to_bytes(4, "little"))
        whole.update(b"".join(size.to_bytes(8, "little") for size in array.shape))
        whole.update(_values(array))
    return whole.hexdigest()


class WeightsDigest:
    """BLAKE2b-256 over the BLAKE2b-256 of each of some arrays, in their order; of an array, over how many values it
    has (u64) and the values.

    Hashing all weights takes longer than learning, and a cycle changes few of them. So what an array was like when it
    was hashed is kept, and only what differs from that is hashed again.
    """

    def __init__(self, arrays: Sequence[Array]) -> None:
        """`arrays` are views of the weights, row by row in memory."""
        self._arrays = tuple(arrays)
        self._known = [b""] * len(self._arrays)
        self._digests = [b""] * len(self._arrays)
        self._whole = ""

    def __call__(self) -> str:
        """The digest of what the arrays hold now, in hex."""
        stale = not self._whole
        for place, array in enumerate(self._arrays):
            # Comparing bytes is a tenth of the work of hashing them.
            values = array.tobytes() if _LITTLE else array.byteswap().tobytes()
            if values != self._known[place] or not self._whole:
                self._known[place] = values
                count = array.size.to_bytes(8, "little")
                self._digests[place] = blake2b(count + values, digest_size=SIZE).digest()
                stale = True
        if stale:
            self._whole = blake2b(b"".join(self._digests), digest_size=SIZE).hexdigest()
        return self._whole


def save(path: Path, arrays: Mapping[str, Array], facts: Mapping[str, str | int]) -> str:
    """Put a checkpoint at `path`, what was there at `path.1`, and what was at `path.1` at `path.2`; the file's digest.

    Arrays are float64 (finite) or int64, of 1 to 8 dimensions, which may be empty. Raises `CheckpointError`, which
    names all that is wrong; nothing has changed then, unless the system refused amid the renames: the last good one
    is at `path.1` then, where `latest_good` finds it.
    """
    wrong = _wrong_arrays(arrays) + _wrong_facts(facts)
    if os.path.lexists(path) and not path.is_file():
        wrong.append("something that is no file is in its place; name another")
    if wrong:
        raise CheckpointError(path, "is not written: " + "; ".join(wrong))
    header = files.canonical_json(
        {
            "arrays": [
                {"dtype": array.dtype.name, "name": name, "shape": list(array.shape)}
                for name, array in sorted(arrays.items())
            ],
            "facts": dict(facts),
        }
    )
    values = [_values(array) for _, array in sorted(arrays.items())]
    total = _PREFIX + len(header) + sum(len(value) for value in values) + SIZE
    if len(header) > HEADER_MOST or total > FILE_MOST:
        raise CheckpointError(
            path,
            f"is not written: it would have {total} bytes, of which {len(header)} are names and facts; allowed are "
            f"{FILE_MOST} and {HEADER_MOST}; save fewer or smaller arrays",
        )
    data = b"".join(
        [MAGIC, VERSION.to_bytes(4, "little"), len(header).to_bytes(4, "little"), header, *map(bytes, values)]
    )
    digest = blake2b(data, digest_size=SIZE)
    try:
        with files.replacing(path) as file:
            file.write(data + digest.digest())
            file.flush()
            # On the disk before the older ones move: a disk that is full changes nothing.
            os.fsync(file.fileno())
            _move_back(path)
    except RecordError as error:
        raise _failure(path, error) from error
    except ValueError as error:
        raise CheckpointError(path, f"cannot be the name of a file ({error}); name another") from error
    return digest.hexdigest()


def load(path: Path, expected: Layout | None = None) -> Checkpoint:
    """The checkpoint in `path`, its arrays exactly those `expected` where that is given.

    Raises `CheckpointError` for anything else: a file that cannot be read, is damaged, of another version or layout, or
    holds what is not finite.
    """
    data = _read(path)
    header, at = _opened(path, data)
    arrays, facts = _parsed(path, header, data[at:-SIZE])
    wrong = _infinite(arrays)
    if expected is not None:
        found = layout_of(arrays)
        wrong += [f"has no array {name}" for name in sorted(expected.keys() - found.keys())]
        wrong += [f"has an array {name}, which is not expected" for name in sorted(found.keys() - expected.keys())]
        wrong += [
            f"{name} is {found[name][1]} {found[name][0]} and must be {expected[name][1]} {expected[name][0]}"
            for name in sorted(found.keys() & expected.keys())
            if found[name] != expected[name]
        ]
    if wrong:
        raise CheckpointError(
            path, "; ".join(wrong) + "; name a checkpoint of this kind of learner (learn.checkpoint), or learn anew"
        )
    return Checkpoint(path, arrays, facts, data[-SIZE:].hex())


def kept(path: Path) -> tuple[Path, ...]:
    """Where the last `KEPT` checkpoints saved at `path` are, the newest first; some may not be there."""
    return (path, *(path.with_name(f"{path.name}.{age}") for age in range(1, KEPT)))


def latest_good(path: Path, expected: Layout | None = None) -> Checkpoint:
    """The newest of the last checkpoints saved at `path` that `load` takes; that it is an older one is logged.

    Raises `CheckpointError`, which says what is wrong with each, when there is none.
    """
    errors: list[CheckpointError] = []
    for candidate in kept(path):
        try:
            found = load(candidate, expected)
        except CheckpointError as error:
            errors.append(error)
            continue
        for damage in errors:
            log.warning("%s; %s, which was saved before it, is used instead", damage, candidate.name)
        return found
    # Of older ones that are not there nothing need be said.
    others = [str(older) for older in errors[1:] if os.path.lexists(older.path)]
    raise CheckpointError(path, "; and ".join([str(errors[0]).removeprefix(f"{path}: "), *others]), errors[0].errno)


def _move_back(path: Path) -> None:
    """Give each of the last ones the name of the one before, the oldest first. Raises `OSError`."""
    for newer, older in pairwise(kept(path)[::-1]):
        if older.is_file():
            older.replace(newer)


def _values(array: Array) -> memoryview:
    """The values row by row, little-endian, as bytes."""
    return np.ascontiguousarray(array, dtype=_BYTES[array.dtype.kind]).reshape(-1).view(np.uint8).data


# --- reading ----------------------------------------------------------------------------------------------------------


def _read(path: Path) -> bytes:
    try:
        # Not to wait for somebody who writes, where the path is a pipe.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise CheckpointError(path, "is not a file; name the file of a checkpoint (learn.checkpoint)")
            data = _read_most(descriptor, FILE_MOST + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _failure(path, files.failure(path, "reading the checkpoint", error)) from error
    except ValueError as error:
        raise CheckpointError(path, f"cannot be the name of a file ({error}); name the file of a checkpoint") from error
    if len(data) > FILE_MOST:
        raise CheckpointError(path, f"has more than {FILE_MOST} bytes, the most that a checkpoint may have; {_MEND}")
    return data


def _read_most(descriptor: int, most: int) -> bytes:
    """All of a file, but no more than `most` bytes. Raises `OSError`."""
    pieces = []
    while most > 0 and (piece := os.read(descriptor, min(most, 1 << 20))):
        pieces.append(piece)
        most -= len(piece)
    return b"".join(pieces)


def _failure(path: Path, error: RecordError) -> CheckpointError:
    return CheckpointError(path, str(error).removeprefix(f"{path}: "), error.errno)


def _opened(path: Path, data: bytes) -> tuple[dict[str, Any], int]:
    """The header of a file whose frame is whole, and where the values begin."""
    if data[: len(MAGIC)] != MAGIC:
        raise CheckpointError(path, f"is not a checkpoint: it does not begin with {MAGIC!r}; {_MEND}")
    if len(data) < _PREFIX + SIZE:
        raise CheckpointError(path, f"is cut off: it has {len(data)} bytes; {_MEND}")
    version = int.from_bytes(data[len(MAGIC) : len(MAGIC) + 4], "little")
    if version != VERSION:
        raise CheckpointError(path, f"has version {version}; this program reads version {VERSION}; {_MEND}")
    if blake2b(data[:-SIZE], digest_size=SIZE).digest() != data[-SIZE:]:
        raise CheckpointError(path, f"is cut off or altered: its digest is not that of its content; {_MEND}")
    length = int.from_bytes(data[len(MAGIC) + 4 : _PREFIX], "little")
    at = _PREFIX + length
    if length > HEADER_MOST or at > len(data) - SIZE:
        raise CheckpointError(
            path, f"has a header of {length} bytes in {len(data)}; allowed are {HEADER_MOST}, and what fits; {_MEND}"
        )
    raw = data[_PREFIX:at]
    try:
        header = json.loads(raw)
        canonical = files.canonical_json(header) == raw
    except (ValueError, RecursionError) as error:
        raise CheckpointError(path, f"has a header that is not JSON ({error}); {_MEND}") from error
    if not canonical or not isinstance(header, dict) or header.keys() != {"arrays", "facts"}:
        raise CheckpointError(
            path, f"has a header that this program does not write; expected are arrays and facts; {_MEND}"
        )
    return header, at


def _parsed(path: Path, header: Mapping[str, Any], values: bytes) -> tuple[dict[str, Array], dict[str, str | int]]:
    """The arrays and facts that the header tells of."""
    facts = header["facts"]
    wrong = _wrong_facts(facts)
    entries = header["arrays"]
    if not isinstance(entries, list) or not all(_is_entry(entry) for entry in entries):
        wrong.append(f"arrays must be a list of name ({_NAMES}), dtype ({', '.join(DTYPES)}) and shape (1 to 8 sizes)")
        entries = []
    names = [entry["name"] for entry in entries]
    if any(first >= second for first, second in pairwise(names)):
        wrong.append("arrays must be in the order of their names, each once")
    counts = [_count(entry["shape"]) for entry in entries]
    if not wrong and 8 * sum(counts) != len(values):
        wrong.append(f"the arrays need {8 * sum(counts)} bytes, and there are {len(values)}")
    if wrong:
        raise CheckpointError(path, f"has a header that cannot be: {'; '.join(wrong)}; {_MEND}")
    arrays: dict[str, Array] = {}
    at = 0
    for entry, count in zip(entries, counts, strict=True):
        raw = np.frombuffer(values, dtype=DTYPES[entry["dtype"]], count=count, offset=at)
        arrays[entry["name"]] = raw.astype(entry["dtype"]).reshape(entry["shape"])
        at += 8 * count
    return arrays, facts


def _is_entry(entry: object) -> bool:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "name", "shape"}:
        return False
    name, dtype, shape = entry["name"], entry["dtype"], entry["shape"]
    if not isinstance(name, str) or _NAME.fullmatch(name) is None or not isinstance(dtype, str) or dtype not in DTYPES:
        return False
    if not isinstance(shape, list) or not 1 <= len(shape) <= DIMENSIONS_MOST:
        return False
    if not all(type(size) is int and 0 <= size <= FILE_MOST for size in shape):
        return False
    # An empty array may be long in its other dimensions, but not beyond what can be counted.
    return _count([max(size, 1) for size in shape]) <= FILE_MOST // 8


def _count(shape: Sequence[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


# --- what may be in one -----------------------------------------------------------------------------------------------


def _wrong_arrays(arrays: Mapping[Any, Any]) -> list[str]:
    wrong = []
    plain: dict[str, Array] = {}
    for name, array in arrays.items():
        if not isinstance(name, str) or _NAME.fullmatch(name) is None:
            wrong.append(f"{name!r} cannot be the name of an array; allowed are {_NAMES}")
        elif type(array) is not np.ndarray or array.dtype not in (np.float64, np.int64):
            kind = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
            wrong.append(f"{name} is {kind}; allowed are NumPy arrays of {' and '.join(DTYPES)}; convert it")
        elif not _is_entry({"name": name, "dtype": array.dtype.name, "shape": list(array.shape)}):
            wrong.append(
                f"{name} has the shape {array.shape}; allowed are 1 to {DIMENSIONS_MOST} dimensions and {FILE_MOST} "
                "bytes; make a single number an array of one"
            )
        else:
            plain[name] = array
    return wrong + _infinite(plain)


def _infinite(arrays: Mapping[str, Array]) -> list[str]:
    wrong = []
    for name, array in sorted(arrays.items()):
        finite = np.isfinite(array)
        if not finite.all():
            first = np.argwhere(~finite)[0].tolist()
            wrong.append(
                f"{name} has {array.size - np.count_nonzero(finite)} values that are not finite, the first at {first} "
                f"({array[tuple(first)]}); learn anew, or take weights of before"
            )
    return wrong


def _wrong_facts(facts: object) -> list[str]:
    if not isinstance(facts, Mapping):
        return [f"facts are a {type(facts).__name__}; a table of names is needed"]
    wrong = []
    for name, value in facts.items():
        if not isinstance(name, str) or _NAME.fullmatch(name) is None:
            wrong.append(f"{name!r} cannot be the name of a fact; allowed are {_NAMES}")
        elif not _is_fact(value):
            wrong.append(
                f"the fact {name} is a {type(value).__name__} that cannot be kept; allowed are text of up to "
                f"{FACT_MOST} characters and integers of 64 bits"
            )
    return wrong


def _is_fact(value: object) -> bool:
    if type(value) is int:
        return -(1 << 63) <= value < 1 << 63
    if type(value) is not str or len(value) > FACT_MOST:
        return False
    # Half a letter cannot be written down.
    return not any("\ud800" <= letter <= "\udfff" for letter in value)
