"""Recordings of every shape are read alike; bad ones are refused with one message that says what mends them."""

from __future__ import annotations

import codecs
import gzip
from pathlib import Path

import numpy as np
import pytest
from calibration import TRACES, write_csv
from commands import BRIEF, answer
from hypothesis import given
from hypothesis import strategies as st

from twin.calibrate import cells
from twin.calibrate.headings import heading
from twin.calibrate.reader import Measured, identifiable, read, read_recordings
from twin.calibrate.recording import Recording, RecordingError
from twin.calibrate.roles import Choice, parse_map

BOARD = Choice("board")
real = pytest.mark.skipif(not TRACES.is_dir(), reason="the recordings are not beside the repository, in ../shared/data")


def columns(count: int = 60) -> dict[str, list[str]]:
    return {
        "t_s": [f"{place * 1.5:g}" for place in range(count)],
        "cpu_temp_c": [f"{40.0 + place % 7 * 1.25:.2f}" for place in range(count)],
        "cpu_load": [f"{place * 7 % 101}.5" if place * 7 % 101 < 100 else "100" for place in range(count)],
        "cpu_power_w": [f"{2.0 + place % 5 * 0.125:.3f}" for place in range(count)],
        "fan_rpm": [f"{900 + place % 9 * 10}" for place in range(count)],
        "note": ["a" if place < 9 else "b" for place in range(count)],
    }


def same(a: Recording, b: Recording) -> bool:
    there, other = a.columns(), b.columns()
    return (
        np.array_equal(a.times_seconds, b.times_seconds)
        and list(there) == list(other)
        and all(np.array_equal(there[name], other[name], equal_nan=True) for name in there)
    )


def refusal(path: Path, choice: Choice = BOARD) -> str:
    with pytest.raises(RecordingError) as caught:
        read(path, choice)
    return str(caught.value)


# --- what is alike ----------------------------------------------------------------------------------------------------


@given(
    st.permutations(list(columns())),
    st.sampled_from([",", ";", "\t", "|"]),
    st.booleans(),
    st.sampled_from(["plain", "gzip", "bom", "utf-16", "comments", "sep"]),
    st.sampled_from(["\n", "\r\n"]),
)
def test_order_delimiter_decimal_mark_and_encoding_make_no_difference(
    tmp_path_factory: pytest.TempPathFactory, order: list[str], delimiter: str, comma: bool, form: str, end: str
) -> None:
    folder = tmp_path_factory.mktemp("alike")
    made = columns()
    plain = read(write_csv(folder / "made.csv", made), BOARD)
    path = write_csv(folder / "other.csv", {name: made[name] for name in order}, delimiter, comma)
    text = path.read_text()
    if form == "comments":
        text = f"# logged by hand\n\n{text.replace(chr(10), chr(10) + '# a break' + chr(10), 1)}"
    if form == "sep":
        text = f"sep={delimiter}\n{text}"
    data = text.replace("\n", end).encode("utf-16" if form == "utf-16" else "utf-8")
    if form == "bom":
        data = codecs.BOM_UTF8 + data
    path.write_bytes(gzip.compress(data) if form == "gzip" else data)
    found = read(path, BOARD)
    assert same(found.recording, plain.recording)
    assert dict(found.columns) == dict(plain.columns)


@pytest.mark.parametrize(
    ("name", "quantity", "unit"),
    [
        ("cpu_temp_c", "temperature", "C"), ("CPU Package [°C]", "temperature", "C"),
        ("temp_millicelsius", "temperature", "mC"),
        ("Core Temps (avg) [°C]", "temperature", "C"), ("CPU Package [ï¿½C]", "temperature", "C"),
        ("Tctl", "temperature", ""),
        ("temperature.gpu", "temperature", ""), ("CPU Temp (°F)", "temperature", "F"), ("CPUTemp", "temperature", ""),
        ("gpu0_power_w", "power", "W"), (" power.draw [W]", "power", "W"), ("Power (mW)", "power", "mW"),
        ("Total CPU Usage [%]", "load", "%"), (" utilization.gpu [%]", "load", "%"), ("gpu_busy_ppm", "load", "ppm"),
        ("load_1", "load", ""), ("Fan1 [RPM]", "fan", "rpm"), ("rpm", "fan", "rpm"), ("t_s", "time", "s"),
        ("time_ms", "time", "ms"), ("monotonic_ns", "time", "ns"), ("Timestamp", "time", ""),
        ("T_cpu", "temperature", ""), ("P_cpu", "power", ""), ("ts", "time", ""), ("cpu", "load", ""),
        ("CPU-Auslastung (%)", "load", "%"), ("Lüfter [U/min]", "fan", "rpm"), ("Zeit", "time", ""),
        ("fan.speed [%]", None, ""), ("Core 0 Clock [MHz]", None, ""), ("cpu_energy_microjoules", None, ""),
        ("pl1_dyn_w", None, ""), ("condition", None, ""), ("CPU Power Limit [W]", None, ""),
    ],
)  # fmt: skip
def test_headings(name: str, quantity: str | None, unit: str) -> None:
    found = heading(name)
    assert (found.quantity, found.unit) == (quantity, unit)


@pytest.mark.parametrize(
    ("names", "kind", "expected"),
    [
        (["Date", "Time", "Core 0 [°C]", "Core Temps (avg) [°C]", "CPU Package [°C]", "GPU Temperature [°C]",
          "Total CPU Usage [%]", "Core 0 Usage [%]", "CPU Package Power [W]", "IA Cores Power [W]", "CPU [RPM]"],
         "laptop",
         {"time": "Date", "time of day": "Time", "cpu_temp": "CPU Package [°C]", "cpu_load": "Total CPU Usage [%]",
          "cpu_power": "CPU Package Power [W]", "gpu_temp": "GPU Temperature [°C]", "fan_rpm": "CPU [RPM]"}),
        (["timestamp", "temperature.gpu", "utilization.gpu [%]", "power.draw [W]", "fan.speed [%]"], "gpu",
         {"time": "timestamp", "gpu_temp": "temperature.gpu", "gpu_load": "utilization.gpu [%]",
          "gpu_power": "power.draw [W]"}),
        (["time", "temp", "load"], "board", {"time": "time", "cpu_temp": "temp", "cpu_load": "load"}),
        (["t", "cpu0_load", "cpu1_load", "cpu_load", "ssd_temp", "cpu_temp", "ambient_temp"], "cpu",
         {"time": "t", "cpu_temp": "cpu_temp", "cpu_load": "cpu_load", "ambient_temp": "ambient_temp"}),
    ],
)  # fmt: skip
def test_the_column_that_fits_best_is_taken(
    tmp_path: Path, names: list[str], kind: str, expected: dict[str, str]
) -> None:
    def cell(name: str, place: int) -> str:
        if name == "Date":
            return "24.12.2025"
        if name in ("Time", "timestamp"):
            clock = f"23:59:{place:02d}.500" if place < 60 else f"00:00:{place - 60:02d}.500"
            day = "2025/12/24" if place < 60 else "2025/12/25"
            return clock if name == "Time" else f"{day} {clock}"
        return str(place if name in ("time", "t") else 40 + place % 9)

    count = 60 if "Date" in names else 90
    path = write_csv(tmp_path / "made.csv", {name: [cell(name, i) for i in range(count)] for name in names})
    found = read(path, Choice(kind))
    assert dict(found.columns) == expected
    assert np.allclose(np.diff(found.recording.times_seconds), 1.0)


@pytest.mark.parametrize(
    ("name", "cells_of", "seconds"),
    [
        ("time_ms", ["0", "500", "1500"], [0.0, 0.5, 1.5]),
        ("Time (s)", ["3", "3.5", "4.5"], [0.0, 0.5, 1.5]),
        ("timestamp", ["1700000000000", "1700000000500", "1700000001500"], [0.0, 0.5, 1.5]),
        ("timestamp", ["1700000000", "1700000001", "1700000003"], [0.0, 1.0, 3.0]),
        ("timestamp", ["2025-12-24T23:59:59.5Z", "2025-12-25T00:00:00Z", "2025-12-25T01:00:01+01:00"], [0.0, 0.5, 1.5]),
        ("time", ["23:59:59", "0:00:01", "0:00:02"], [0.0, 2.0, 3.0]),
        ("time", ["11:59:59 PM", "12:00:01 AM", "12:00:02 AM"], [0.0, 2.0, 3.0]),
        ("date", ["24.12.2025 23:59:59", "25.12.2025 00:00:00", "25.12.2025 00:00:02"], [0.0, 1.0, 3.0]),
        ("date", ["12/24/2025 23:59:59", "12/25/2025 00:00:00", "12/25/2025 00:00:02"], [0.0, 1.0, 3.0]),
        ("date", ["24/12/2025 23:59:59", "25/12/2025 00:00:00", "25/12/2025 00:00:02"], [0.0, 1.0, 3.0]),
    ],
)
def test_times_of_every_shape(tmp_path: Path, name: str, cells_of: list[str], seconds: list[float]) -> None:
    from twin.calibrate.scales import times

    found = times(cells_of, heading(name).unit, decimal_comma=False)
    assert not found.wrong
    assert np.allclose(found.values - found.values[0], seconds, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "comma", "value"),
    [
        ("12.5", False, 12.5), ("12,5", True, 12.5), ("12,5", False, 12.5), ("1,234", False, 1_234.0),
        ("1,234", True, 1.234),
        ("1.234,5", True, 1_234.5), ("1,234.5", False, 1_234.5), ("-3e2", False, -300.0), ("45 %", False, 45.0),
        ("\u22123,5", True, -3.5), (".5", False, 0.5), ("7.", False, 7.0), ("1'234.5", False, 1_234.5),
        ("abc", False, None),
        ("1.2.3", False, None), ("", False, None), ("1,2,3", False, None),
    ],
)  # fmt: skip
def test_numbers(text: str, comma: bool, value: float | None) -> None:
    found = cells.number(text, comma)
    assert (None if found is None else found[0]) == value


@given(st.text(max_size=40), st.booleans())
def test_no_cell_breaks_the_reader(text: str, comma: bool) -> None:
    found = cells.number(text, comma)
    assert found is None or isinstance(found[0], float)
    cells.clock_seconds(text)
    cells.date_seconds(text, comma)
    heading(text)


@given(st.binary(max_size=400))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("bytes") / "any.csv"
    path.write_bytes(b"t_s,cpu_temp_c,cpu_load\n" + data)
    assert str(path) in refusal(path)


def test_units_are_scaled_and_gaps_and_glitches_left_out(tmp_path: Path) -> None:
    made = columns()
    made["temp_millicelsius"] = [f"{float(value) * 1_000:.0f}" for value in made.pop("cpu_temp_c")]
    made["temp_millicelsius"][5] = ""
    made["temp_millicelsius"][6] = "NaN"
    made["temp_millicelsius"][7] = "350000"
    made["cpu_load_ratio"] = [f"{float(value) / 100.0:.3f}" for value in made.pop("cpu_load")]
    found = read(write_csv(tmp_path / "made.csv", made), BOARD)
    celsius = found.recording.temperatures_celsius
    assert np.flatnonzero(np.isnan(celsius)).tolist() == [5, 6, 7]
    assert np.allclose(celsius[:5], [40.0, 41.25, 42.5, 43.75, 45.0])
    assert found.recording.loads is not None
    assert found.recording.loads[1] == pytest.approx(0.075)
    assert len(found.notes) == 2
    assert "line 8, column temp_millicelsius: NaN is taken as a gap" in found.notes[0]
    assert "left out as glitches" in found.notes[1]


def test_mapped_columns_and_devices(tmp_path: Path) -> None:
    made = columns()
    file = {"when": made["t_s"]}
    for device in (3, 12):
        file |= {f"gpu{device}_temp_c": [f"{float(value) + device:.2f}" for value in made["cpu_temp_c"]],
                 f"gpu{device}_load": made["cpu_load"], f"gpu{device}_power_w": made["cpu_power_w"]}  # fmt: skip
    path = write_csv(tmp_path / "made.csv", file)
    assert "missing is a time" in refusal(path, Choice("gpu"))
    found = read(path, Choice("gpu", mapped=parse_map(["time=when:ms"])))
    assert found.columns["gpu_power"] == "gpu3_power_w"
    assert "2 devices (3, 12); gpu 3 is taken" in found.notes[0]
    assert found.recording.times_seconds[1] == pytest.approx(0.0015)
    assert read(path, Choice("gpu", parse_map(["time=when:s"]), device=12)).columns["gpu_load"] == "gpu12_load"
    one = read(path, Choice("gpu", parse_map(["time=when:s", "gpu_temp=gpu12_temp_c"])))
    assert one.columns["gpu_power"] == "gpu12_power_w"
    assert "there is no gpu with that number; there are 3, 12" in refusal(
        path, Choice("gpu", {"time": "when:s"}, device=1)
    )


@pytest.mark.parametrize(
    ("item", "part"),
    [
        ("cpu_temp", "write ROLE=COLUMN"), ("=x", "no role ''"), ("speed=x", "no role 'speed'"),
        ("fast_load=x", "no role 'fast_load'"), ("cpu_temp=", "write ROLE=COLUMN"),
    ],
)  # fmt: skip
def test_bad_maps(item: str, part: str) -> None:
    with pytest.raises(RecordingError, match="--map") as caught:
        parse_map([item])
    assert part in str(caught.value)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"cpu_temp_c": None},
         ["line 1: missing is the cpu's temperature", "--map cpu_temp=COLUMN", "cpu_load (load)"]),
        ({"cpu_load": None, "cpu_power_w": None, "fan_rpm": None},
         ["missing is what drives it", "cpu_temp_c (temperature)"]),
        ({"t_s": None}, ["missing is a time", "--map time=COLUMN"]),
        ({"cpu_temp_c": "350"},
         ["line 2, column cpu_temp_c: 350 C", "looks like kelvin", "--map cpu_temp=cpu_temp_c:K"]),
        ({"cpu_temp_c": "45000"}, ["looks like thousandths of a degree: --map cpu_temp=cpu_temp_c:mC"]),
        ({"cpu_temp_c": "180"}, ["looks like degrees Fahrenheit"]),
        ({"cpu_load": "250"},
         ["line 2, column cpu_load: 250 %", "allowed are 0 to 100", "--map cpu_load=cpu_load:%/3"]),
        ({"cpu_load": "-1"}, ["column cpu_load: -1 as a share is no load", "mend the cell"]),
        ({"cpu_power_w": "45000"}, ["looks like milliwatts: --map cpu_power=cpu_power_w:mW"]),
        ({"cpu_power_w": "-5"}, ["is no power"]),
        ({"cpu_temp_c": "warm"}, ["line 2, column cpu_temp_c: 'warm' is not a number (and 59 cells more)"]),
        ({"cpu_temp_c": "nan"}, ["column cpu_temp_c: 60 of 60 cells have no number (NaN or empty)"]),
        ({"t_s": "5"}, ["too short: 1 samples; 30 are needed"]),
        ({"t_s": "late"}, ["line 2, column t_s: 'late' is no time"]),
        ({"t_s": ""}, ["is no time"]),
        ({"cpu_temp_c": "350", "cpu_load": "250"}, ["2 errors", "looks like kelvin", "250 %"]),
    ],
)  # fmt: skip
def test_bad_columns(tmp_path: Path, change: dict[str, str | None], parts: list[str]) -> None:
    made = columns()
    for name, value in change.items():
        if value is None:
            del made[name]
        else:
            made[name] = [value] * 60
    path = write_csv(tmp_path / "made.csv", made)
    said = refusal(path)
    assert said.startswith(str(path))
    assert not [part for part in parts if part not in said], said


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "the file is empty"), ("\n \n", "the file is empty"), ("# nothing\n", "only comments"),
        ("t_s,cpu_temp_c,cpu_load\n", "no samples below the header"), ("1,2,3\n4,5,6\n", "no names of columns"),
        ("t_s,cpu_temp_c,cpu_load\n0,40,5\n1,40\n2,40,5\n", "line 3: 2 cells, and the header has 3"),
        ("t_s,cpu_temp_c,cpu_load\n0,40,5\n1,40,6\n", "too short: 2 samples"),
    ],
)  # fmt: skip
def test_bad_files(tmp_path: Path, text: str, part: str) -> None:
    path = tmp_path / "made.csv"
    path.write_text(text)
    assert part in refusal(path)


def test_files_that_are_none(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "nowhere.csv")
    (tmp_path / "run").mkdir()
    assert "without seam.log" in refusal(tmp_path / "run")
    (tmp_path / "a.csv.gz").write_bytes(b"t_s,cpu_temp_c\n")
    assert "not a gzip file" in refusal(tmp_path / "a.csv.gz")
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(b"t_s,cpu_temp_c\n" * 99)[:-9])
    assert "damaged" in refusal(tmp_path / "b.csv.gz")
    (tmp_path / "c.csv").write_bytes(b"\x7fELF\0\0\0")
    assert "not a text" in refusal(tmp_path / "c.csv")
    with pytest.raises(RecordingError) as caught:
        read_recordings([tmp_path / "c.csv", tmp_path / "nowhere.csv"], BOARD)
    assert "c.csv: not a text" in str(caught.value)
    assert "nowhere.csv: cannot be read" in str(caught.value)


def test_time_going_backwards_says_how_to_take_a_part(tmp_path: Path) -> None:
    made = columns()
    again = {name: values * 2 for name, values in made.items()} | {"note": ["one"] * 60 + ["two"] * 60}
    path = write_csv(tmp_path / "made.csv", again)
    said = refusal(path)
    assert "line 62, column t_s: '0' comes after '88.5', so time goes back" in said
    assert "--where note=one" in said
    assert len(read(path, Choice("board", where={"note": "two"})).recording.times_seconds) == 60
    assert "no row has that; there are one, two" in refusal(path, Choice("board", where={"note": "three"}))
    assert "there is no such column" in refusal(path, Choice("board", where={"notes": "one"}))


def test_one_moment_twice_counts_once(tmp_path: Path) -> None:
    made = columns()
    made["t_s"][10] = made["t_s"][9]
    found = read(write_csv(tmp_path / "made.csv", made), BOARD).recording
    assert len(found.times_seconds) == 59
    assert found.temperatures_celsius[9] == float(made["cpu_temp_c"][10])


def test_constant_input_says_what_cannot_be_identified() -> None:
    times, moving, still = np.arange(60.0), np.arange(60.0) % 7, np.full(60, 0.5)
    assert identifiable([Recording("a", times, 40.0 + moving, loads=moving / 7.0)]) == []
    (said,) = identifiable([Recording("a", times, 40.0 + moving, loads=still)])
    assert "a: the load is 50 % throughout, so that resistances, time constants, idle and dynamic power cannot" in said
    assert (
        "the temperature is 40 C throughout" in identifiable([Recording("a", times, 0 * times + 40, loads=moving)])[0]
    )
    assert identifiable([Recording("a", times, 40.0 + moving, loads=still, fan_rpm=moving)]) == []


# --- real ones --------------------------------------------------------------------------------------------------------


@real
def test_the_recordings_are_read() -> None:
    found: dict[str, Measured] = {}
    for path in sorted(TRACES.glob("*/*.csv.gz")):
        kind = "gpu" if path.parent.name.startswith("gpu") else "laptop" if "laptop" in path.parent.name else "board"
        where = {"condition": "ground"} if "victus" in path.parent.name else {}
        found[path.name] = read(path, Choice(kind, where=where))
    assert found["normal_use.csv.gz"].columns["cpu_temp"] == "cpu_pkg_temp_c"
    assert found["normal_use.csv.gz"].columns["cpu_power"] == "cpu_power_w"
    assert found["recording_a.csv.gz"].columns["gpu_power"] == "gpu0_power_w"
    assert found["cooling_pad.csv.gz"].recording.loads is None
    boards = [each.recording for name, each in found.items() if "_1" in name or "_0" in name]
    assert len(boards) == 11
    assert all(float(np.nanmax(each.loads)) == 1.0 for each in boards if each.loads is not None)


def test_a_recorded_run_is_a_recording(tmp_path: Path) -> None:
    answer("run", "steps", *BRIEF[:1], "6", "--out", tmp_path / "run")
    found = read(
        tmp_path / "run", Choice("cpu", sensors=("cpu", "gpu", "case"), fans=("cpu_fan", "gpu_fan", "case_fan"))
    )
    assert found.columns["cpu_temp"] == "cpu_temp_millicelsius"
    assert set(found.fans) == {"cpu_fan", "gpu_fan", "case_fan"}
    assert {"case", "gpu"} <= set(found.temperatures)
    assert found.recording.powers_watts is not None
    assert 5.0 < float(np.nanmax(found.recording.powers_watts)) < 150.0
    assert found.recording.loads is not None
    assert 0.0 <= float(np.nanmin(found.recording.loads)) <= float(np.nanmax(found.recording.loads)) <= 1.0
    answer("run", "idle", *BRIEF, "--out", tmp_path / "short")
    assert "too short" in refusal(tmp_path / "short", Choice("cpu"))
