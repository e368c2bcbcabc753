"""The conformance suite: what every backend owes to the loop above it, as checks that anyone can run.

It sends no command that a read-only backend would carry out, and on a backend that acts it asks for the limits, ends at
the safe values and closes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from hardware.interface import Applied, Command, Hardware, Readings, Status, UnknownChannelError

UNKNOWN = "no_such_channel_of_any_machine"
"""A channel that no hardware has."""


@dataclass(frozen=True, slots=True)
class Check:
    """One rule: its `name`, whether the backend keeps it, and in `detail` what was found otherwise."""

    name: str
    passed: bool
    detail: str = ""


class _BrokenError(Exception):
    """A rule is not kept; the text says how."""


def check_hardware(make: Callable[[], Hardware]) -> list[Check]:
    """Every rule in order, against one backend that `make` opens and this function closes. Never raises."""
    try:
        hardware = make()
    except Exception as error:  # whatever goes wrong is a finding
        return [Check("opens", False, repr(error))]
    checks = [Check("opens", True)]
    try:
        for name, rule in _RULES:
            try:
                rule(hardware)
            except _BrokenError as broken:
                checks.append(Check(name, False, str(broken)))
            except Exception as error:  # as above
                checks.append(Check(name, False, f"raised {error!r}"))
            else:
                checks.append(Check(name, True))
    finally:
        checks.append(_close_twice(hardware))
    return checks


def _demand(kept: bool, broken: str) -> None:
    if not kept:
        raise _BrokenError(broken)


def _sensor_names_are_unique(hardware: Hardware) -> None:
    names = [channel.name for channel in hardware.sensors]
    _demand(len(set(names)) == len(names), f"twice: {sorted({name for name in names if names.count(name) > 1})}")


def _limits_are_in_order(hardware: Hardware) -> None:
    for name, limit in hardware.limits.items():
        _demand(name == limit.name, f"{limit.name} is listed as {name}")
        bounds = (limit.minimum, limit.safe, limit.maximum)
        _demand(all(type(bound) is int for bound in bounds), f"{name} has limits that are no ints: {bounds}")
        _demand(limit.minimum <= limit.safe <= limit.maximum, f"{name}: not minimum <= safe <= maximum: {bounds}")


def _readings_answer_for_all_sensors(hardware: Hardware) -> None:
    readings = hardware.read()
    _demand(isinstance(readings, Readings), f"read gave a {type(readings).__name__}")
    _demand(
        len(readings.values) == len(hardware.sensors),
        f"{len(readings.values)} readings for {len(hardware.sensors)} sensors",
    )


def _each(hardware: Hardware) -> Iterator[tuple[str, object, object, object]]:
    readings = hardware.read()
    names = [channel.name for channel in hardware.sensors]
    yield from zip(names, readings.values, readings.times_ns, readings.statuses, strict=True)


def _readings_are_ints(hardware: Hardware) -> None:
    for name, value, time_ns, status in _each(hardware):
        _demand(value is None or type(value) is int, f"{name} is {value!r}")
        _demand(type(time_ns) is int, f"{name} was taken at {time_ns!r}")
        _demand(isinstance(status, Status), f"{name} has the status {status!r}")


def _a_value_is_missing_if_and_only_if_not_ok(hardware: Hardware) -> None:
    for name, value, _time_ns, status in _each(hardware):
        _demand((value is None) == (status is not Status.OK), f"{name} is {value!r} with the status {status!r}")


def _times_do_not_run_backwards(hardware: Hardware) -> None:
    before, after = hardware.read(), hardware.read()
    for channel, first, second in zip(hardware.sensors, before.times_ns, after.times_ns, strict=True):
        _demand(0 <= first <= second, f"{channel.name} was taken at {first} ns and then at {second} ns")


def _counters_run_forward_or_wrap(hardware: Hardware) -> None:
    before, after = hardware.read(), hardware.read()
    for channel, first, second in zip(hardware.sensors, before.values, after.values, strict=True):
        if first is None or second is None:
            continue
        if channel.wrap is not None:
            _demand(0 <= second <= channel.wrap, f"{channel.name} is {second}, beyond its wrap at {channel.wrap}")
            # Between two reads in a row a counter moves little: far down can only be a wrap, a little down cannot.
            forward = second >= first or first - second > channel.wrap // 2
            _demand(forward, f"{channel.name} went from {first} to {second}")
        elif channel.name.endswith("_ticks"):
            _demand(second >= first, f"{channel.name} went from {first} to {second}")


def _apply(hardware: Hardware, values: Mapping[str, int]) -> Applied:
    """One cycle: a read, then the command."""
    hardware.read()
    applied = hardware.apply(Command(values))
    _demand(isinstance(applied, Applied), f"apply gave a {type(applied).__name__}")
    failed = {name for name, _why in applied.failed}
    _demand(set(applied.values) | failed == set(values), f"asked {sorted(values)}, answered {sorted(applied.values)}")
    for name, value in applied.values.items():
        limit = hardware.limits[name]
        _demand(type(value) is int, f"{name} is {value!r}")
        _demand(limit.minimum <= value <= limit.maximum, f"{name} is {value}, outside its limits")
    return applied


def _an_empty_command_is_carried_out(hardware: Hardware) -> None:
    applied = _apply(hardware, {})
    _demand(not applied.values and not applied.clamped and not applied.failed, f"made of it: {applied}")


def _each_channel_can_be_commanded_alone(hardware: Hardware) -> None:
    for name, limit in hardware.limits.items():
        applied = _apply(hardware, {name: limit.safe})
        moved = applied.values.get(name, limit.safe) != limit.safe
        _demand(not moved or name in applied.clamped, f"{name}: asked {limit.safe}, got {applied.values} unclamped")


def _beyond(hardware: Hardware, high: bool) -> None:
    asked = {
        name: limit.maximum + 1_000_000 if high else limit.minimum - 1_000_000
        for name, limit in hardware.limits.items()
    }
    applied = _apply(hardware, asked)
    silent = sorted(set(asked) - set(applied.clamped))
    _demand(not silent, f"clamped without saying so: {silent}")


def _too_low_is_clamped(hardware: Hardware) -> None:
    _beyond(hardware, high=False)


def _too_high_is_clamped(hardware: Hardware) -> None:
    _beyond(hardware, high=True)


def _an_unknown_channel_raises(hardware: Hardware) -> None:
    safe = {name: limit.safe for name, limit in hardware.limits.items()}
    for values in ({UNKNOWN: 0}, {**safe, UNKNOWN: 0}):
        try:
            applied = hardware.apply(Command(values))
        except UnknownChannelError as error:
            _demand(error.name == UNKNOWN, f"the error names {error.name}")
        else:
            raise _BrokenError(f"did not raise, but gave {applied}")


def _a_value_that_is_no_int_raises(hardware: Hardware) -> None:
    for name, limit in hardware.limits.items():
        for value in (float(limit.safe), float("nan"), float("inf"), True, None, str(limit.safe)):
            try:
                applied = hardware.apply(Command({name: value}))  # type: ignore[dict-item]
            except TypeError:
                continue
            raise _BrokenError(f"{name} took {value!r} and gave {applied}")


def _reading_goes_on(hardware: Hardware) -> None:
    for _cycle in range(3):
        _demand(len(hardware.read().values) == len(hardware.sensors), "a later read answers for other sensors")


def _ends_at_the_safe_values(hardware: Hardware) -> None:
    _apply(hardware, {name: limit.safe for name, limit in hardware.limits.items()})


def _close_twice(hardware: Hardware) -> Check:
    name = "close may be called twice"
    try:
        hardware.close()
        hardware.close()
    except Exception as error:  # as above
        return Check(name, False, f"raised {error!r}")
    return Check(name, True)


_RULES: tuple[tuple[str, Callable[[Hardware], None]], ...] = (
    ("sensor names are unique", _sensor_names_are_unique),
    ("limits are ints, with the safe value between them", _limits_are_in_order),
    ("readings answer for all sensors", _readings_answer_for_all_sensors),
    ("readings are ints or missing", _readings_are_ints),
    ("a value is missing if and only if the status is not OK", _a_value_is_missing_if_and_only_if_not_ok),
    ("times do not run backwards", _times_do_not_run_backwards),
    ("counters run forward or wrap", _counters_run_forward_or_wrap),
    ("an empty command is carried out", _an_empty_command_is_carried_out),
    ("each channel can be commanded alone", _each_channel_can_be_commanded_alone),
    ("an unknown channel raises before anything is carried out", _an_unknown_channel_raises),
    ("a value that is no int raises", _a_value_that_is_no_int_raises),
    ("too low a value is clamped, and said so", _too_low_is_clamped),
    ("too high a value is clamped, and said so", _too_high_is_clamped),
    ("reading goes on after faulty commands", _reading_goes_on),
    ("the safe values can be commanded", _ends_at_the_safe_values),
)
