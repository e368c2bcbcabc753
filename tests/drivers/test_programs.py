"""Unmodified `sensors`, `fancontrol` and psutil read and steer the twin."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest
from drivers.programs import Served, in_front_of, served
from profiles import NIGHTLY

SECONDS = 120 if NIGHTLY else 10
ROUNDS = 20
"""Looks of 0.25 s each: fancontrol acts once a second on what it read then, later where processors are busy."""
COOL, HOT = 30, 75
START, STOP, LEAST, MOST = 120, 60, 60, 255
AS_THE_KERNEL = re.compile(rb"-?\d+\n|[ -~]+\n")


def _formula(degrees: float) -> float:
    return LEAST if degrees <= COOL else (degrees - COOL) * (MOST - STOP) / (HOT - COOL) + STOP


@pytest.fixture
def warm(strangers: None, tmp_path: Path) -> Iterator[Served]:
    # In the short version the room is hot, so that there is something to do at once.
    ambient = () if NIGHTLY else ("--set", "machine.ambient_celsius=48.0")
    with served(tmp_path / "tree", "gaming", *ambient) as tree:
        yield tree


def test_sensors_and_psutil_show_what_the_tree_holds(warm: Served) -> None:
    (warm.chip("nct6775") / "pwm2_enable").write_text("1")
    told = json.loads(subprocess.check_output(in_front_of(warm.root, "sensors", "-j")))
    cpu = told["coretemp-isa-0000"]["Package id 0"]["temp1_input"]
    assert 20 < cpu < 60
    assert told["amdgpu-isa-0000"]["power1"]["power1_cap"] == 220
    assert {"fan1", "fan2", "SYSTIN"} <= set(told["nct6775-isa-0000"])
    question = """
import json, psutil, sys
fans = {chip: [fan.current for fan in fans] for chip, fans in psutil.sensors_fans().items()}
temperatures = {chip: [each.current for each in several] for chip, several in psutil.sensors_temperatures().items()}
fastest = psutil.cpu_freq().max
psutil.PROCFS_PATH = sys.argv[1]
print(json.dumps([temperatures, fans, fastest, psutil.cpu_times().user, psutil.virtual_memory().total]))
"""
    command = in_front_of(warm.root, sys.executable, "-c", question, warm.root / "proc")
    temperatures, fans, megahertz, user_seconds, memory = json.loads(subprocess.check_output(command))
    assert abs(temperatures["coretemp"][0] - cpu) <= 3
    assert len(fans["nct6775"]) == 2
    assert all(speed > 300 for speed in fans["nct6775"])
    assert (megahertz, memory) == (5_000, 32 << 30)
    assert user_seconds > 0


def test_fancontrol_keeps_the_twin_in_its_band_and_gives_the_fans_back(warm: Served, tmp_path: Path) -> None:
    cpu, gpu, board = (warm.chip(name).name for name in ("coretemp", "amdgpu", "nct6775"))
    pairs = {f"{board}/pwm2": f"{cpu}/temp1_input", f"{gpu}/pwm1": f"{gpu}/temp1_input",
             f"{board}/pwm1": f"{board}/temp1_input"}  # fmt: skip
    each = {
        "MINTEMP": COOL, "MAXTEMP": HOT, "MINSTART": START, "MINSTOP": STOP, "MINPWM": LEAST, "MAXPWM": MOST,
    }  # fmt: skip
    lines = [
        "INTERVAL=1",
        f"DEVPATH={cpu}=devices/platform/coretemp.0 {gpu}=devices/platform/amdgpu.0 {board}=devices/platform/nct6775.0",
        f"DEVNAME={cpu}=coretemp {gpu}=amdgpu {board}=nct6775",
        f"FCTEMPS={' '.join(f'{pwm}={temperature}' for pwm, temperature in pairs.items())}",
        f"FCFANS={board}/pwm2={board}/fan2_input {gpu}/pwm1={gpu}/fan1_input {board}/pwm1={board}/fan1_input",
        *(f"{key}={' '.join(f'{pwm}={value}' for pwm in pairs)}" for key, value in each.items()),
    ]
    (tmp_path / "fancontrol.conf").write_text("\n".join(lines) + "\n")
    hwmon = warm.root / "sys/class/hwmon"
    before = {pwm: ((hwmon / pwm).read_bytes(), (hwmon / f"{pwm}_enable").read_bytes()) for pwm in pairs}
    program = subprocess.Popen(
        in_front_of(warm.root, "fancontrol", tmp_path / "fancontrol.conf"), stdout=subprocess.PIPE, text=True
    )
    hottest = 0.0
    seen: dict[str, set[int]] = {pwm: set() for pwm in pairs}
    lately: dict[str, deque[float]] = {pwm: deque(maxlen=ROUNDS) for pwm in pairs}
    try:
        while any((hwmon / f"{pwm}_enable").read_bytes() != b"1\n" for pwm in pairs):
            assert program.poll() is None
            time.sleep(0.01)
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            assert program.poll() is None
            time.sleep(0.25)
            for chip in warm.chips():
                for file in chip.iterdir():
                    # A shell that writes empties the file first: that moment belongs to it.
                    data = b"" if file.is_dir() else file.read_bytes()
                    assert data == b"" or AS_THE_KERNEL.fullmatch(data), file
            for pwm, temperature in pairs.items():
                lately[pwm].append(int((hwmon / temperature).read_text()) / 1_000)
                hottest = max(hottest, lately[pwm][-1])
                seen[pwm] |= {int(text) for text in [(hwmon / pwm).read_text()] if text}
                assert (hwmon / f"{pwm}_enable").read_bytes() in (b"1\n", b"")
        assert hottest < HOT
        # Full speed at its start, then what its own formula says of a temperature of the last few rounds.
        for pwm in pairs:
            least, most = (_formula(degrees) for degrees in (min(lately[pwm]), max(lately[pwm])))
            assert least - 1 <= int((hwmon / pwm).read_text()) <= most + 1, (pwm, lately[pwm])
            assert len(seen[pwm]) >= 2, pwm
    finally:
        program.terminate()
        said, _ = program.communicate()
    assert "Starting automatic fan control" in said
    time.sleep(0.2)
    after = {pwm: ((hwmon / pwm).read_bytes(), (hwmon / f"{pwm}_enable").read_bytes()) for pwm in pairs}
    assert after == before == dict.fromkeys(pairs, (b"80\n", b"2\n"))
    print(f"\nfancontrol for {SECONDS} s in gaming: at most {hottest:.1f} °C, band {COOL} to {HOT} °C; "
          f"pwm between {min(map(min, seen.values()))} and {max(map(max, seen.values()))}")  # fmt: skip
