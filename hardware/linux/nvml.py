"""The first NVIDIA GPU through NVML, when nvidia-ml-py (module `pynvml`) and a driver are there.

Units are NVML's own: degrees Celsius, percent, megahertz, milliwatts. Each metric is a capability of its own, and
nothing raises: a driver that goes away is a table that shows nothing until it comes back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hardware.interface import Status
from hardware.linux.sysfs import Outcome, Output

RETRY_READS = 10
"""After so many refreshes without a GPU the library is initialised again."""

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
    """GPU 0 as a table with the keys temp, busy, clock, power and power_limit. `module` is `pynvml` or a fake of it."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self._handle: Any = None
        self._why = Outcome(None, Status.ABSENT, "not initialised yet")
        self._wait = 0
        self.where = "NVML GPU 0"
        self._readers: dict[str, Callable[[], int]] = {
            "temp": lambda: module.nvmlDeviceGetTemperature(self._handle, module.NVML_TEMPERATURE_GPU),
            "busy": lambda: module.nvmlDeviceGetUtilizationRates(self._handle).gpu,
            "clock": lambda: module.nvmlDeviceGetClockInfo(self._handle, module.NVML_CLOCK_GRAPHICS),
            "power": lambda: module.nvmlDeviceGetPowerUsage(self._handle),
            "power_limit": lambda: module.nvmlDeviceGetPowerManagementLimit(self._handle),
        }

    def refresh(self) -> None:
        """Initialise when there is no GPU at hand, and again every `RETRY_READS` calls while there is none."""
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

    def limit_power(self, milliwatts: int) -> Outcome:
        """Set the power limit of the board. Needs root."""
        if self._handle is None:
            return self._why
        try:
            self._module.nvmlDeviceSetPowerManagementLimit(self._handle, milliwatts)
        except Exception as error:  # as in `read`
            return self._failure(error, "power_limit")
        return Outcome(milliwatts, Status.OK)

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
                # The handle is worthless now, even when the same GPU comes back.
                self._handle = None
                self._wait = RETRY_READS - 1
                self._why = Outcome(None, Status.UNREADABLE, detail)
        elif isinstance(error, AttributeError):
            return Outcome(None, Status.ABSENT, detail)
        return Outcome(None, Status.UNREADABLE, detail)


class PowerLimit:
    """The power limit of a GPU as a place that can be written."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self.where = f"{gpu.where} power_limit"

    def read(self) -> Outcome:
        """Milliwatts."""
        return self._gpu.read("power_limit")

    def write(self, raw: int) -> Outcome:
        """Milliwatts."""
        return self._gpu.limit_power(raw)


def find_output(gpu: Gpu, attribute: str) -> Output | str:
    """The output `attribute` (only `power_limit` is one), or the reason why there is none."""
    limit = PowerLimit(gpu)
    if attribute != "power_limit":
        return f"{gpu.where} has no output {attribute}"
    present = limit.read()
    if present.value is None:
        return present.detail
    allowed = gpu.power_range()

    def inside(raw: int) -> int:
        return raw if allowed is None else min(allowed[1], max(allowed[0], raw))

    return Output(limit.where, (limit,), lambda raw: ((limit, raw),), inside)
