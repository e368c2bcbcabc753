"""The first NVIDIA GPU through NVML, when nvidia-ml-py (module `pynvml`) and a driver are there.

Units are NVML's own: degrees Celsius, percent, megahertz, milliwatts. Each metric is a capability of its own, and
nothing raises: a driver that goes away is a table that shows nothing until it comes back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hardware.interface import Status
from hardware.linux.output import MOST, Lane, Output
from hardware.linux.sysfs import Outcome

RETRY_READS = 10
"""After so many refreshes without a GPU a library that could not be initialised is tried again."""

PLACES = ("power_limit", "clock_limit", "clock_policy", "fan", "fan_policy")
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
    """GPU 0 as a table: temp, busy, clock, power and those of `PLACES`. `module` is `pynvml` or a fake of it."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self._handle: Any = None
        self._clock_limit: int | None = None
        self._why = Outcome(None, Status.ABSENT, "not initialised yet")
        self._wait = 0
        self.where = "NVML GPU 0"
        self._readers: dict[str, Callable[[], int]] = {
            "temp": lambda: module.nvmlDeviceGetTemperature(self._handle, module.NVML_TEMPERATURE_GPU),
            "busy": lambda: module.nvmlDeviceGetUtilizationRates(self._handle).gpu,
            "clock": lambda: module.nvmlDeviceGetClockInfo(self._handle, module.NVML_CLOCK_GRAPHICS),
            "power": lambda: module.nvmlDeviceGetPowerUsage(self._handle),
            "power_limit": lambda: module.nvmlDeviceGetPowerManagementLimit(self._handle),
            "fan": lambda: module.nvmlDeviceGetTargetFanSpeed(self._handle, 0),
            "fan_policy": lambda: module.nvmlDeviceGetFanControlPolicy_v2(self._handle, 0),
            "clock_limit": self._limited_clock,
            "clock_policy": lambda: int(self._clock_limit is not None),
        }
        self._writers: dict[str, Callable[[int], None]] = {
            "power_limit": lambda raw: module.nvmlDeviceSetPowerManagementLimit(self._handle, raw),
            "fan": self._set_fans,
            "fan_policy": self._fan_policy,
            "clock_limit": self._lock_clock,
            "clock_policy": self._clock_policy,
        }

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
            self._handle = self._module.nvmlDeviceGetHandleByIndex(0)
        except Exception as error:  # whatever the library raises, a missing GPU is not fatal
            # Without a GPU there is nothing to read, which is less than a reading that failed.
            self._why = Outcome(None, Status.ABSENT, f"{self.where}: {error}")

    def read(self, key: str) -> Outcome:
        """The metric `key`."""
        if self._handle is None:
            return self._why
        reader = self._readers.get(key)
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
        writer = self._writers.get(key)
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

    def _fan_policy(self, policy: int) -> None:
        # As with the clock. The driver's own curve is the only safe state of a fan that nobody looks after (nvml.h).
        if policy == 0:
            for fan in range(self._module.nvmlDeviceGetNumFans(self._handle)):
                self._module.nvmlDeviceSetDefaultFanSpeed_v2(self._handle, fan)

    def _set_fans(self, percent: int) -> None:
        for fan in range(self._module.nvmlDeviceGetNumFans(self._handle)):
            self._module.nvmlDeviceSetFanSpeed_v2(self._handle, fan, percent)

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


_shared: dict[int, Gpu] = {}


def place(where: str) -> Place:
    """The place called `where` in a library that is loaded for it. Raises ValueError when it cannot be had."""
    module = load()
    if isinstance(module, str):
        raise ValueError(module)
    # What was locked is known to one object only.
    gpu = _shared.setdefault(id(module), Gpu(module))
    gpu.refresh()
    key = where.removeprefix(f"{gpu.where} ")
    if key not in PLACES:
        raise ValueError(f"{where!r} is no place of {gpu.where}; allowed are {', '.join(PLACES)}")
    return Place(gpu, key, refresh=True)


def find_output(gpu: Gpu, attribute: str) -> Output | str:
    """The output `attribute` (`power_limit`, `clock_limit` or `fan`), or the reason why there is none."""
    if attribute not in ("power_limit", "clock_limit", "fan"):
        return f"{gpu.where} has no output {attribute}"
    value = Place(gpu, attribute)
    present = value.read()
    if present.value is None:
        return present.detail
    if attribute == "power_limit":
        return Output(value.where, (Lane(value, *(gpu.power_range() or (-MOST, MOST))),))
    if attribute == "clock_limit":
        return Output(value.where, (Lane(value, 1, MOST, Place(gpu, "clock_policy")),))
    return Output(value.where, (Lane(value, 0, 100, Place(gpu, "fan_policy"), blind=True),), 1, settle_ns=SETTLE_NS)
