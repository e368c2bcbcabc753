"""The format of the seam log: everything that crossed the seam, in one append-only file.

The file is `TWINSEAM`, a version (u32), and records: payload length (u32), kind (u8), payload, and the CRC-32 of length,
kind and payload (u32); all little-endian. Kinds and payloads:

| kind | payload |
|---|---|
| 1 HEADER | canonical JSON: `schema` (`seam/1`), `product_version`, `scenario` (TOML), `seed`, `config`, `law`, `channels` ([name, wrap]), `limits` ([name, minimum, maximum, safe]) |
| 2 TICKS | number of the first tick (u64), then the lateness of it and its successors in nanoseconds (i64 each) |
| 3 CYCLE | cycle number (u64), due, lateness, suspended (i64 nanoseconds); for each channel its status (u8), then each value (i64, 0 where there is none), then each time (i64); for each output flags (u8: 1 commanded, 2 applied, 4 clamped), then each command (i64), then each applied value (i64); then, if something failed, JSON: [[name, reason], ...] |
| 4 END | number of ticks (u64), number of cycles (u64) |

The first record is the only HEADER, and nothing follows END. The header is written before the file gets its name, so
that a log always says what it belongs to. A process that dies leaves whole records and at most a piece of one more.
"""  # noqa: E501

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Any

from hardware.interface import Applied, Channel, Command, Limit, Readings, Status
from twin.record.files import canonical_json

MAGIC = b"TWINSEAM"
VERSION = 1
SCHEMA = "seam/1"
PAYLOAD_LIMIT = 4 << 20
"""Bytes. A record that claims more is damaged."""
TICKS_LIMIT = 65_536
"""Ticks in one record, at most."""

START = len(MAGIC) + 4
SECOND_NS = 1_000_000_000
PREFIX = struct.Struct("<IB")
U32 = struct.Struct("<I")
U64 = struct.Struct("<Q")
COUNTS = struct.Struct("<QQ")
OVERHEAD = PREFIX.size + U32.size
_STATUSES = tuple(Status)
_OK = Status.OK
_STATUS_BYTES = bytes(_STATUSES)
_COMMANDED, _APPLIED, _CLAMPED = 1, 2, 4
_CYCLE_HEAD = ("cycle number", "due_ns", "lateness_ns", "suspended_ns")


class Kind(IntEnum):
    """The kind of a record, as its type byte has it."""

    HEADER = 1
    TICKS = 2
    CYCLE = 3
    END = 4


@dataclass(frozen=True, slots=True)
class SeamHeader:
    """What a log belongs to. `scenario` is the complete scenario as TOML; the sources of channels are not kept."""

    product_version: str
    scenario: str
    seed: int
    config: str
    law: str
    channels: tuple[Channel, ...]
    limits: tuple[Limit, ...]


@dataclass(frozen=True, slots=True)
class Cycle:
    """One control cycle at the seam: when it was due and how it woke, what was read, asked for, and done.

    `readings` are in the order of the header's channels; `command` and `applied` name the header's limits. Times are
    nanoseconds since the run began, and every integer fits 64 bits with sign. `applied.clamped` comes back in the order
    of the limits.
    """

    number: int
    due_ns: int
    lateness_ns: int
    suspended_ns: int
    readings: Readings
    command: Command
    applied: Applied


def seconds(time_ns: int) -> str:
    """`time_ns` for people, in seconds with three decimals, cut off."""
    return f"{time_ns // SECOND_NS}.{time_ns % SECOND_NS // 1_000_000:03d} s"


class Layout:
    """How a CYCLE payload lies in bytes, for one set of channels and outputs."""

    def __init__(self, channels: Sequence[str], outputs: Sequence[str]) -> None:
        n, m = len(channels), len(outputs)
        self.channels = tuple(channels)
        self.outputs = tuple(outputs)
        self.struct = struct.Struct(f"<Q3q{n}B{n}q{n}q{m}B{m}q{m}q")
        self.statuses = slice(32, 32 + n)
        self.flags = slice(32 + 17 * n, 32 + 17 * n + m)

    def pack(self, cycle: Cycle) -> bytes:
        """The payload. Raises `ValueError` for a cycle that does not fit the header."""
        values, statuses = cycle.readings.values, cycle.readings.statuses
        for value, status in zip(values, statuses, strict=True):
            if (value is None) is (status is _OK):
                raise ValueError(f"cycle {cycle.number}: a reading is {value!r} with status {status!r}")
        asked, done, clamped = cycle.command.values, cycle.applied.values, cycle.applied.clamped
        flags: list[int] = []
        commands: list[int] = []
        results: list[int] = []
        known = 0
        for name in self.outputs:
            flag = 0
            command = asked.get(name)
            result = done.get(name)
            if command is not None:
                flag = _COMMANDED
                known += 1
            if result is not None:
                flag |= _APPLIED
                known += 1
            if name in clamped:
                flag |= _CLAMPED
                known += 1
            flags.append(flag)
            commands.append(command or 0)
            results.append(result or 0)
        if known != len(asked) + len(done) + len(clamped):
            raise ValueError(f"cycle {cycle.number}: an output is not one of {', '.join(self.outputs) or 'none'}")
        try:
            payload = self.struct.pack(
                cycle.number, cycle.due_ns, cycle.lateness_ns, cycle.suspended_ns,
                *statuses, *[0 if value is None else value for value in values], *cycle.readings.times_ns,
                *flags, *commands, *results,
            )  # fmt: skip
        except struct.error as error:
            expected = f"{len(self.channels)} readings and integers of 64 bits"
            raise ValueError(f"cycle {cycle.number}: {error}; a cycle has {expected}") from error
        return payload + canonical_json(cycle.applied.failed) if cycle.applied.failed else payload

    def flaw(self, payload: bytes) -> str | None:
        """What is wrong with a payload whose checksum is right; None when nothing is."""
        if len(payload) < self.struct.size:
            return f"a cycle of this log has at least {self.struct.size} bytes, this one {len(payload)}"
        if payload[self.statuses].translate(None, _STATUS_BYTES):
            return "a status is unknown"
        if any(flag > (_COMMANDED | _APPLIED | _CLAMPED) for flag in payload[self.flags]):
            return "flags of an output are unknown"
        if len(payload) > self.struct.size:
            try:
                _failed(payload[self.struct.size :])
            except ValueError:
                return "the list of failures is not one"
        return None

    def unpack(self, payload: bytes) -> Cycle:
        """The cycle in a payload without a flaw."""
        number, due_ns, lateness_ns, suspended_ns, *rest = self.struct.unpack_from(payload)
        n, m = len(self.channels), len(self.outputs)
        statuses = tuple([_STATUSES[status] for status in rest[:n]])
        values = tuple([value if status == 0 else None for value, status in zip(rest[n:], statuses, strict=False)])
        rest = rest[2 * n :]
        times = tuple(rest[:n])
        outputs = list(zip(self.outputs, rest[n : n + m], rest[n + m : n + 2 * m], rest[n + 2 * m :], strict=True))
        command = {name: asked for name, flag, asked, _ in outputs if flag & _COMMANDED}
        result = {name: done for name, flag, _, done in outputs if flag & _APPLIED}
        clamped = tuple([name for name, flag, _, _ in outputs if flag & _CLAMPED])
        tail = payload[self.struct.size :]
        return Cycle(
            number, due_ns, lateness_ns, suspended_ns,
            Readings(values, times, statuses),
            Command(MappingProxyType(command)),
            Applied(MappingProxyType(result), clamped, _failed(tail) if tail else ()),
        )  # fmt: skip

    def field(self, position: int) -> tuple[str, int, str]:
        """The field that payload byte `position` lies in: name, first byte, and `struct` format ("" for the JSON)."""
        groups: list[tuple[Sequence[str], str, str]] = [
            (_CYCLE_HEAD, "{}", "q"),
            (self.channels, "status of {}", "B"),
            (self.channels, "{}", "q"),
            (self.channels, "time of {}", "q"),
            (self.outputs, "flags of {}", "B"),
            (self.outputs, "command {}", "q"),
            (self.outputs, "applied {}", "q"),
        ]
        start = 0
        for names, label, code in groups:
            size = struct.calcsize(code)
            end = start + size * len(names)
            if position < end:
                index = (position - start) // size
                return label.format(names[index]), start + index * size, "<" + code
            start = end
        return "failures", start, ""


def _failed(raw: bytes) -> tuple[tuple[str, str], ...]:
    """The failures in a cycle's JSON tail. Raises `ValueError` when it is something else."""
    try:
        pairs = json.loads(raw)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(pairs, list):
        raise ValueError("not a list")
    for pair in pairs:
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) for part in pair)):
            raise ValueError("not a pair of strings")
    return tuple((name, reason) for name, reason in pairs)


def record(kind: Kind, payload: bytes) -> bytes:
    """The bytes of a record. Raises `ValueError` for a payload over `PAYLOAD_LIMIT`."""
    if len(payload) > PAYLOAD_LIMIT:
        raise ValueError(f"a {kind.name} record of {len(payload)} bytes is over the limit of {PAYLOAD_LIMIT}")
    body = PREFIX.pack(len(payload), kind) + payload
    return body + U32.pack(zlib.crc32(body))


def header_payload(header: SeamHeader) -> bytes:
    """The payload of the HEADER record."""
    return canonical_json(
        {
            "schema": SCHEMA,
            "product_version": header.product_version,
            "scenario": header.scenario,
            "seed": header.seed,
            "config": header.config,
            "law": header.law,
            "channels": [[channel.name, channel.wrap] for channel in header.channels],
            "limits": [[limit.name, limit.minimum, limit.maximum, limit.safe] for limit in header.limits],
        }
    )


def layout_of(header: SeamHeader) -> Layout:
    """How the cycles under `header` lie in bytes."""
    return Layout([channel.name for channel in header.channels], [limit.name for limit in header.limits])


def parse_header(value: dict[str, Any]) -> SeamHeader:
    """The header in its JSON form. Raises `KeyError`, `TypeError` or `ValueError` when it is not one."""
    channels = tuple(Channel(_checked(name, str), _optional(wrap)) for name, wrap in value["channels"])
    limits = tuple(
        Limit(_checked(name, str), *(_checked(number, int) for number in rest)) for name, *rest in value["limits"]
    )
    return SeamHeader(
        _checked(value["product_version"], str),
        _checked(value["scenario"], str),
        _checked(value["seed"], int),
        _checked(value["config"], str),
        _checked(value["law"], str),
        channels,
        limits,
    )


def _checked(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{value!r} is not of type {kind.__name__}")
    return value


def _optional(value: Any) -> int | None:
    return None if value is None else int(_checked(value, int))
