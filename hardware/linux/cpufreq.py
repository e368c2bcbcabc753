"""Processor clocks, in kilohertz. See the kernel's `Documentation/admin-guide/pm/cpufreq.rst`."""

from __future__ import annotations

from dataclasses import dataclass

from hardware.interface import Source, Status
from hardware.linux.output import MOST, Lane, Output
from hardware.linux.sysfs import FileCell, Outcome, Root

DIRECTORY = "sys/devices/system/cpu/cpufreq"
"""Where the kernel keeps one `policyN` for each group of cores that share a clock."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The resolved `directory` of a policy, and the `files` it has."""

    directory: str
    files: frozenset[str]


class HighestClock:
    """The same attribute of all policies; it shows the highest of those that can be read."""

    def __init__(self, where: str, cells: tuple[FileCell, ...]) -> None:
        self.where = where
        self._cells = cells

    def read(self) -> Outcome:
        """The highest clock, or what is wrong with the first policy when none can be read."""
        outcomes = [cell.read() for cell in self._cells]
        clocks = [outcome.value for outcome in outcomes if outcome.value is not None]
        return Outcome(max(clocks), Status.OK) if clocks else outcomes[0]


def scan(root: Root) -> tuple[Policy, ...]:
    """All policies."""
    directories = (root.resolve(root.absolute(f"{DIRECTORY}/{name}")) for name in _policies(root))
    return tuple(
        Policy(directory, frozenset(root.names(directory))) for directory in directories if directory is not None
    )


def _policies(root: Root) -> tuple[str, ...]:
    return tuple(name for name in root.names(DIRECTORY) if name.startswith("policy"))


def find(root: Root, policies: tuple[Policy, ...], source: Source) -> HighestClock | str:
    """The attribute of all policies that have it, or the reason why there is none."""
    cells = tuple(
        FileCell(root, f"{policy.directory}/{source.attribute}")
        for policy in policies
        if source.attribute in policy.files
    )
    if not cells:
        return f"no cpufreq policy has {source.attribute}"
    return HighestClock(f"/{DIRECTORY}/policy*/{source.attribute}", cells)


def find_output(root: Root, policies: tuple[Policy, ...], source: Source) -> Output | str:
    """`scaling_max_freq` of all policies, each within what its cores can do, or the reason why there is none.

    The kernel refuses a highest clock below the lowest allowed one, so that the lowest is lowered first.
    """
    usable = [policy for policy in policies if {source.attribute, "scaling_min_freq"} <= policy.files]
    if not usable:
        return f"no cpufreq policy has {source.attribute} and scaling_min_freq"
    lanes = tuple(
        Lane(
            FileCell(root, f"{policy.directory}/{source.attribute}"),
            *_range(root, policy),
            floor=FileCell(root, f"{policy.directory}/scaling_min_freq"),
        )
        for policy in usable
    )
    return Output(f"/{DIRECTORY}/policy*/{source.attribute}", lanes)


def _range(root: Root, policy: Policy) -> tuple[int, int]:
    low = root.read_integer(f"{policy.directory}/cpuinfo_min_freq").value
    high = root.read_integer(f"{policy.directory}/cpuinfo_max_freq").value
    return (-MOST, MOST) if low is None or high is None or low > high else (low, high)
