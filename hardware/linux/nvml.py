"""One NVIDIA card through NVML, when nvidia-ml-py (module `pynvml`) and a driver are there.

Cards are told apart by UUID, or by PCI address where there is none, and never by number, which changes. Units are
NVML's own: degrees Celsius, percent, megahertz, milliwatts. Each metric is a capability of its own, and nothing raises:
a driver that goes away is a table that shows nothing until it comes back.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from typing import Any

from hardware.interface import AmbiguousDeviceError, Status
from hardware.linux.output import MOST, Lane, Output
from hardware.linux.sysfs import Outcome

RETRY_READS = 10
"""After so many refreshes without a GPU a library that could not be initialised is tried again."""

PLACES = re.compile(r"power_limit|clock_limit|clock_policy|fan\d{1,2}|fan\d{1,2}_policy")
"""What can be written: milliwatts, megahertz, percent, and whether a program sets it (1) or the driver (0)."""

SETTLE_NS = 3_000_000_000
"""Fans of graphics cards follow slowly."""

_STATUSES = {
    "NVML_ERROR_NOT_SUPPORTED": Status.ABSENT,
    "NVML_ERROR_FUNCTION_NOT_FOUND": Status.ABSENT,
    "NVML_ERROR_NOT_FOUND": Status.ABSENT,
    "NVML_ERROR_NO_PERMISSION": Status.DENIED,
}
_GONE = (
    "NVML_ERROR_UNINITIALIZED",
    "NVML_ERROR_DRIVER_NOT_LOADED",
    "NVML_ERROR_GPU_IS_LOST",
    "NVML_ERROR_LIB_RM_VERSION_MISMATCH",
    "NVML_ERROR_INVALID_ARGUMENT",
)


def load() -> Any | str:
    """The module `pynvml`, or the reason why it cannot be used."""
    try:
        import pynvml
    except ImportError as error:
        return f"no NVML: {error} (pip install nvidia-ml-py)"
    return pynvml


class Gpu:
    """A card as a table: temp, busy, clock, power and those of `PLACES`. `module` is `pynvml` or a fake of it.

    `cards` are the UUIDs or PCI addresses of which the first that is there counts; without any there may be one card
    only. Which card it is never changes again.
    """

    def __init__(self, module: Any, cards: tuple[str, ...] = ()) -> None:
        self._module = module
        self._cards = cards
        self._handle: Any = None
        self._clock_limit: int | None = None
        self._why = Outcome(None, Status.ABSENT, "not initialised yet")
        self._wait = 0
        self._chosen = ""
        self.ambiguous: AmbiguousDeviceError | None = None
        """There are several cards, and none is named."""
        self._readers: dict[str, Callable[[], int]] = {
            "temp": lambda: module.nvmlDeviceGetTemperature(self._handle, module.NVML_TEMPERATURE_GPU),
            "busy": lambda: module.nvmlDeviceGetUtilizationRates(self._handle).gpu,
            "clock": lambda: module.nvmlDeviceGetClockInfo(self._handle, module.NVML_CLOCK_GRAPHICS),
            "power": lambda: module.nvmlDeviceGetPowerUsage(self._handle),
            "power_limit": lambda: module.nvmlDeviceGetPowerManagementLimit(self._handle),
            "clock_limit": self._limited_clock,
            "clock_policy": lambda: int(self._clock_limit is not None),
        }
        self._writers: dict[str, Callable[[int], None]] = {
            "power_limit": lambda raw: module.nvmlDeviceSetPowerManagementLimit(self._handle, raw),
            "clock_limit": self._lock_clock,
            "clock_policy": self._clock_policy,
        }

    @property
    def where(self) -> str:
        """Which card it is, for people and for `place`."""
        return f"NVML {self._chosen or ' or '.join(self._cards) or 'card'}"

    def _limited_clock(self) -> int:
        # NVML does not tell the locked clock; what can be seen is whether the clock keeps it.
        highest = int(self._module.nvmlDeviceGetMaxClockInfo(self._handle, self._module.NVML_CLOCK_GRAPHICS))
        if self._clock_limit is None:
            return highest
        now = int(self._module.nvmlDeviceGetClockInfo(self._handle, self._module.NVML_CLOCK_GRAPHICS))
        return max(now, self._clock_limit)

    def refresh(self) -> None:
        """Initialise when there is no GPU at hand: at once, and then every `RETRY_READS` calls while that fails."""
        if self._handle is not None:
            return
        if self._wait > 0:
            self._wait -= 1
            return
        self._wait = RETRY_READS - 1
        try:
            self._module.nvmlInit()
            self._choose()
        except Exception as error:  # whatever the library raises, a missing GPU is not fatal
            # Without a GPU there is nothing to read, which is less than a reading that failed.
            self._why = Outcome(None, Status.ABSENT, f"{self.where}: {error}")
            self.ambiguous = error if isinstance(error, AmbiguousDeviceError) else None

    def _choose(self) -> None:
        """Find the card among those that are there. Raises `AmbiguousDeviceError`, LookupError, and NVML's errors."""
        handles: list[Any] = []
        names: list[list[str]] = []
        lost: Exception | None = None
        for number in range(self._module.nvmlDeviceGetCount()):
            try:
                handle = self._module.nvmlDeviceGetHandleByIndex(number)
                names.append(self._names(handle))
                handles.append(handle)
            except Exception as error:  # as in `read`; one that is lost says nothing of the others
                lost = error
        listed = ", ".join(" at ".join(each) for each in names)
        for wanted in (self._chosen,) if self._chosen else self._cards:
            for handle, each in zip(handles, names, strict=True):
                if _plain(wanted) in map(_plain, each):
                    self._handle, self._chosen = handle, each[0]
                    return
        if lost is not None:
            # It may have been the one.
            raise lost
        if self._chosen or self._cards or not handles:
            raise LookupError(f"there is no such card; there are {listed or 'none'}")
        if len(handles) > 1:
            raise AmbiguousDeviceError(
                f'{len(handles)} NVIDIA cards: {listed} (write machine.gpu.nvml_cards = ["{names[0][0]}"])',
                tuple(each[0] for each in names),
            )
        self._handle, self._chosen = handles[0], names[0][0]

    def _names(self, handle: Any) -> list[str]:
        """What tells the card from others: its UUID and its PCI address, as far as it tells them."""
        names = []
        for tell in (self._module.nvmlDeviceGetUUID, lambda card: self._module.nvmlDeviceGetPciInfo(card).busId):
            with contextlib.suppress(Exception):  # as in `read`
                name = tell(handle)
                names.append(name.decode() if isinstance(name, bytes) else str(name))
        if not names:
            raise LookupError("a card tells neither its UUID nor its PCI address")
        return names

    def read(self, key: str) -> Outcome:
        """The metric `key`."""
        if self._handle is None:
            return self._why
        reader = self._readers.get(key) or self._fan(key, self._fan_reader)
        if reader is None:
            return Outcome(None, Status.ABSENT, f"{self.where} has no {key}")
        try:
            return Outcome(int(reader()), Status.OK)
        except Exception as error:  # a function that this library or driver lacks raises what it likes
            return self._failure(error, key)

    def write(self, key: str, raw: int) -> Outcome:
        """Set what can be set (`PLACES`); a policy of 0 is the driver's own. Needs root."""
        if self._handle is None:
            return self._why
        writer = self._writers.get(key) or self._fan(key, self._fan_writer)
        if writer is None:
            return Outcome(None, Status.DENIED, f"{self.where} {key} cannot be set")
        try:
            writer(raw)
        except Exception as error:  # as in `read`
            return self._failure(error, key)
        return Outcome(raw, Status.OK)

    def _lock_clock(self, megahertz: int) -> None:
        self._module.nvmlDeviceSetGpuLockedClocks(self._handle, 0, megahertz)
        self._clock_limit = megahertz

    def _clock_policy(self, policy: int) -> None:
        # Setting the clock is what makes it ours.
        if policy == 0:
            self._module.nvmlDeviceResetGpuLockedClocks(self._handle)
            self._clock_limit = None

    def _fan(self, key: str, make: Callable[[int, bool], Callable[..., Any]]) -> Callable[..., Any] | None:
        found = re.fullmatch(r"fan(\d{1,2})(_policy)?", key)
        return None if found is None else make(int(found[1]), found[2] is not None)

    def _fan_reader(self, fan: int, policy: bool) -> Callable[[], int]:
        module = self._module
        if policy:
            return lambda: module.nvmlDeviceGetFanControlPolicy_v2(self._handle, fan)
        return lambda: module.nvmlDeviceGetTargetFanSpeed(self._handle, fan)

    def _fan_writer(self, fan: int, policy: bool) -> Callable[[int], None]:
        module = self._module
        if not policy:
            return lambda raw: module.nvmlDeviceSetFanSpeed_v2(self._handle, fan, raw)

        def give_back(raw: int) -> None:
            # As with the clock. The driver's own curve is the only safe state of a fan that nobody looks after
            # (nvml.h).
            if raw == 0:
                module.nvmlDeviceSetDefaultFanSpeed_v2(self._handle, fan)

        return give_back

    def fans(self) -> int:
        """How many fans the card has; 0 where it does not tell."""
        try:
            return int(self._module.nvmlDeviceGetNumFans(self._handle))
        except Exception:  # as in `read`
            return 0

    def power_range(self) -> tuple[int, int] | None:
        """The lowest and highest power limit that the board takes in milliwatts, or None when it does not tell."""
        try:
            low, high = self._module.nvmlDeviceGetPowerManagementLimitConstraints(self._handle)
        except Exception:  # as in `read`; a range that is not known does not clamp
            return None
        return int(low), int(high)

    def close(self) -> None:
        """Let the library go."""
        if self._handle is not None:
            self._handle = None
            self._why = Outcome(None, Status.ABSENT, f"{self.where}: closed")
            self._wait = RETRY_READS
            try:
                self._module.nvmlShutdown()
            except Exception as error:  # nothing can be done about it, and nothing depends on it
                self._why = Outcome(None, Status.ABSENT, f"{self.where}: {error}")

    def _failure(self, error: Exception, key: str) -> Outcome:
        number = getattr(error, "value", None)
        detail = f"{self.where} {key}: {error}"
        if number is not None:
            for name, status in _STATUSES.items():
                if getattr(self._module, name, None) == number:
                    return Outcome(None, status, detail)
            if any(getattr(self._module, name, None) == number for name in _GONE):
                # The handle is worthless now, even when the same GPU comes back. While the library can be initialised
                # nobody waits: what was lost for a moment may have to be given back in the next one.
                self._handle = None
                self._wait = 0
                self._why = Outcome(None, Status.UNREADABLE, detail)
        elif isinstance(error, AttributeError):
            return Outcome(None, Status.ABSENT, detail)
        return Outcome(None, Status.UNREADABLE, detail)


class Place:
    """One thing of a GPU that can be written, by its `key`; `clock_policy` and `fan_policy` are 1 while we set it."""

    def __init__(self, gpu: Gpu, key: str, refresh: bool = False) -> None:
        """`refresh` looks for a GPU that was lost at each access, where nobody else does."""
        self._gpu = gpu
        self._key = key
        self._refresh: Callable[[], None] = gpu.refresh if refresh else lambda: None
        self.where = f"{gpu.where} {key}"

    def read(self) -> Outcome:
        """Milliwatts, megahertz, percent, or whether a program sets it."""
        self._refresh()
        return self._gpu.read(self._key)

    def write(self, raw: int) -> Outcome:
        """In the same units."""
        self._refresh()
        return self._gpu.write(self._key, raw)


def _plain(name: str) -> str:
    """A name as it is compared: a PCI address may have four or eight digits of domain, and capitals."""
    address = re.fullmatch(r"([0-9a-f]{4,8})(:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7])", name.lower())
    return name.lower() if address is None else f"{int(address[1], 16):x}{address[2]}"


_shared: dict[tuple[int, str], Gpu] = {}


def place(where: str) -> Place:
    """The place called `where` in a library that is loaded for it. Raises ValueError when it cannot be had."""
    module = load()
    if isinstance(module, str):
        raise ValueError(module)
    card, _, key = where.removeprefix("NVML ").rpartition(" ")
    if not card or not PLACES.fullmatch(key):
        raise ValueError(f"{where!r} is no place of an NVIDIA card; a card, and power_limit, clock_limit or a fan, are")
    # What was locked is known to one object only.
    gpu = _shared.setdefault((id(module), card), Gpu(module, (card,)))
    gpu.refresh()
    return Place(gpu, key, refresh=True)


def find_output(gpu: Gpu, attribute: str) -> Output | str:
    """The output `attribute` (`power_limit`, `clock_limit` or `fan`), or the reason why there is none.

    Each fan is given back as it was. What clock was locked before nobody can tell: NVML has no function for it.
    """
    if attribute not in ("power_limit", "clock_limit", "fan"):
        return f"{gpu.where} has no output {attribute}"
    values = [Place(gpu, f"fan{number}") for number in range(gpu.fans() or 1)]
    if attribute != "fan":
        values = [Place(gpu, attribute)]
    present = values[0].read()
    if present.value is None:
        return present.detail
    if attribute == "power_limit":
        return Output(values[0].where, (Lane(values[0], *(gpu.power_range() or (-MOST, MOST))),))
    if attribute == "clock_limit":
        return Output(values[0].where, (Lane(values[0], 1, MOST, Place(gpu, "clock_policy")),), unseen=True)
    lanes = tuple(Lane(value, 0, 100, Place(gpu, f"fan{number}_policy"), blind=True)
                  for number, value in enumerate(values))  # fmt: skip
    return Output(f"{gpu.where} fan", lanes, 1, settle_ns=SETTLE_NS)
