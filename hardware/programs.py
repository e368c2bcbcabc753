"""Other programs that may be writing to the same outputs. They can only be left alone, and be named."""

from __future__ import annotations

from hardware.linux.sysfs import Root

DAEMONS = {"fancontrol": 1, "coolercontrold": 1, "fan2go": 1, "thinkfan": 1, "nbfc_service": 1, "afancontrol": 1,
           "thermald": -1}  # fmt: skip
"""By the names of their processes, and which outputs they write to: `Output.cooler`."""


def daemons(root: Root) -> dict[int, str]:
    """A running program with its process for each kind of outputs that programs write to, if there is one."""
    running = {process: root.read_word(root.absolute(f"proc/{process}/comm")) for process in root.names("proc")}
    return {DAEMONS[name]: f"{name} (process {process})" for process, name in running.items()
            if name in DAEMONS and process.isdigit()}  # fmt: skip
