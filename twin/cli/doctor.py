"""`twin doctor`: what is missing on this machine, and the command that mends it."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hardware.linux.application import PORT
from twin.cli import ANSWER_IS_NO, DONE, output
from twin.cli.status import survey

REQUIRED = ("simpy", "numpy", "scipy", "pandas", "pyarrow", "pydantic", "annotated_types", "rich", "tomli_w")


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is missing: whether pulsetwin cannot work without it, what it costs, and what mends it."""

    needed: bool
    missing: str
    mend: str


def main(options: argparse.Namespace) -> int:
    """List what is missing. Exit status 1 when something that is needed is."""
    findings = list(examine(Path(options.root)))
    if options.json:
        found = [{"needed": f.needed, "missing": f.missing, "mend": f.mend} for f in findings]
        output.print_json({"healthy": not any(f.needed for f in findings), "findings": found})
    elif not findings:
        print("Nothing is missing.")
    else:
        rows = [("needed" if f.needed else "optional", f.missing, f.mend) for f in findings]
        output.print_table("What is missing", ("", "missing", "what mends it"), rows)
    return ANSWER_IS_NO if any(f.needed for f in findings) else DONE


def examine(root: Path) -> Iterator[Finding]:
    """Everything that is missing, the needed things first."""
    for name in REQUIRED:
        if importlib.util.find_spec(name) is None:
            yield Finding(True, f"the package {name}", f"pip install {name.replace('_', '-')}")
    if importlib.util.find_spec("numba") is None:
        yield Finding(False, "numba: kernels are interpreted, ticks take about 150 times as long", "pip install numba")
    if importlib.util.find_spec("pynvml") is None:
        yield Finding(False, "nvidia-ml-py: NVIDIA cards cannot be read", "pip install 'pulsetwin[nvidia]'")
    if not sys.platform.startswith("linux"):
        yield Finding(False, "Linux: there is no real machine to read here", "use the simulated backend")
        return
    steps = {step.name: step for step in survey(root)}
    if not steps["temperatures"].ready:
        yield Finding(
            False,
            "temperature sensors: " + "; ".join(steps["temperatures"].found),
            "load the sensor drivers (apt install lm-sensors && sensors-detect); virtual machines have none",
        )
    energy = root / "sys/class/powercap/intel-rapl:0/energy_uj"
    if energy.exists() and not os.access(energy, os.R_OK):
        yield Finding(
            False,
            f"permission to read {energy}: no processor power",
            f"sudo chmod o+r {energy}, until the next start; the rule that twin service --udev prints, for good",
        )
    port = (root / PORT).parent
    if not port.is_dir():
        yield Finding(
            False,
            f"the application port {port}: frames and offered words are not known",
            f"sudo install -d -o {os.environ.get('USER', 'root')} {port}, and let the application write there",
        )
