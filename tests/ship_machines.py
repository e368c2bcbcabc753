"""The machines that ship, each with the command that made it. Run as a program it makes them anew.

A machine is fitted in the folder of its recordings, so that its command names them and no place of any computer.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from calibration import TRACES

MACHINES = Path(__file__).parents[1] / "scenarios" / "machines"


@dataclass(frozen=True)
class Shipped:
    """From which folder of recordings, of which kind, whose, and what else `twin calibrate` was told."""

    folder: str
    recordings: tuple[str, ...]
    kind: str
    source: str
    licence: str
    more: tuple[str, ...] = ()

    def command(self, name: str) -> list[str]:
        """The words of the command, without the program."""
        return [
            "calibrate", *self.recordings, "--kind", self.kind, *self.more, "--name", name,
            "--source", self.source, "--licence", self.licence, "--out", f"{name}.toml",
        ]  # fmt: skip


PI = "sjchiass/pitemp, data/{}.csv at f2ee9b9c: Raspberry Pi 3B, {}"
PI_LICENCE = "BSD-3-Clause, (c) 2020 sjchiass"
SHIPPED = {
    "raspberry_pi_3b": Shipped(
        "raspberry_pi_3b", ("pistress_0000000011.csv.gz",), "board",
        PI.format("pistress_0000000011", "heatsinks, no case, random load, 1 h at 1 s"), PI_LICENCE,
    ),
    "raspberry_pi_3b_case": Shipped(
        "raspberry_pi_3b", ("pistress_1111010011.csv.gz",), "board",
        PI.format("pistress_1111010011", "heatsinks, official case with a hole above, random load, 1 h at 1 s"),
        PI_LICENCE,
    ),
    "server_gpu_697w": Shipped(
        "gpu_server_8x700w", ("recording_a.csv.gz",), "gpu",
        "karpathy/nanoGPT pull request 643, gpu_metrics.csv at b443a1c3: the first of eight cards in one server, "
        "1348 s at 0.29 s", "MIT", ("--device", "0"),
    ),
    "laptop_precision_5570": Shipped(
        "laptop_precision_5570", ("normal_use.csv.gz",), "laptop",
        "JuanjoFuchs/hwinfo-tui, ai-docs/sensors.CSV at 9963058a: Dell Precision 5570, i9-12900H, 1970 s of normal use",
        "MIT",
    ),
    "laptop_victus_15": Shipped(
        "laptop_victus_15", ("cooling_pad.csv.gz",), "laptop",
        "Teitei011/DELTA-B3112GG, csv/*.csv at ea6b11b9: HP Victus 15 on a cooling pad, 0 to 2200 rpm, 9 x 570 s, 5 s",
        "MIT", ("--split", "condition"),
    ),
}  # fmt: skip


def made(name: str, folder: Path) -> Path:
    """The machine `name`, fitted anew in `folder`, which gets links to its recordings."""
    shipped = SHIPPED[name]
    for recording in shipped.recordings:
        (folder / recording).symlink_to(TRACES / shipped.folder / recording)
    program = [sys.executable, "-m", "twin", *shipped.command(name)]
    # The package may be a checkout that nobody installed.
    environment = {**os.environ, "PYTHONPATH": str(MACHINES.parents[1])}
    subprocess.run(program, cwd=folder, check=True, env=environment)
    return folder / f"{name}.toml"


def main() -> None:
    for name in sys.argv[1:] or SHIPPED:
        with tempfile.TemporaryDirectory() as folder:
            new = made(name, Path(folder))
            path = MACHINES / f"{name}.toml"
            same = path.exists() and path.read_bytes() == new.read_bytes()
            MACHINES.mkdir(exist_ok=True)
            shutil.copyfile(new, path)
            print(f"{name:24} {'unchanged' if same else 'CHANGED'}", flush=True)


if __name__ == "__main__":
    main()
