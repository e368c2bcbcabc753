"""Files in the shapes that loggers write: read without a word about columns, or refused with what mends them."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.calibrate import cells
from twin.calibrate.headings import heading
from twin.calibrate.reader import Measured, read
from twin.calibrate.recording import Recording, RecordingError
from twin.calibrate.roles import Choice

COUNT = 90


def celsius(place: int) -> float:
    return 40.0 + place % 11


def percent(place: int) -> int:
    return place * 13 % 101


def watts(place: int) -> float:
    return 20.0 + place % 17


def rpm(place: int) -> int:
    return 900 + place % 7 * 50


def clock(place: int) -> str:
    """A time of day as some loggers write it: no zeros in front."""
    return f"23:{58 + place // 60}:{place % 60}.250" if place < 120 else f"0:{place // 60 - 2}:{place % 60}.250"


def made(folder: Path, text: str, kind: str = "cpu", name: str = "log.csv") -> Measured:
    path = folder / name
    path.write_bytes(text.encode())
    return read(path, Choice(kind))


def holds(found: Measured, *, power: bool = True, fan: bool = True) -> None:
    recording = found.recording
    places = range(COUNT)
    assert np.allclose(np.diff(recording.times_seconds), 1.0, atol=1e-6)
    assert recording.temperatures_celsius.tolist() == [celsius(each) for each in places]
    assert recording.loads is not None
    assert np.allclose(recording.loads, [percent(each) / 100.0 for each in places])
    assert (recording.powers_watts is not None) == power
    if recording.powers_watts is not None:
        assert recording.powers_watts.tolist() == [watts(each) for each in places]
    assert (recording.fan_rpm is not None) == fan
    if recording.fan_rpm is not None:
        assert recording.fan_rpm.tolist() == [rpm(each) for each in places]


SENSORS = [
    ("CPU Package [°C]", celsius), ("Core 0 [°C]", lambda place: 90), ("CPU Package [°C]", lambda place: 7),
    ("Core Thermal Throttling [Yes/No]", lambda place: "No"), ("Package C6 Residency [%]", lambda place: 0.0),
    ("Total CPU Usage [%]", percent), ("Core 0 T0 Usage [%]", lambda place: 3), ("CPU Package Power [W]", watts),
    ("IA Cores Power [W]", lambda place: 9), ("CPU [RPM]", rpm), ("AIO Pump [RPM]", lambda place: 2_500),
    ("GPU Temperature [°C]", celsius), ("GPU Memory Junction Temperature [°C]", lambda place: 99),
    ("GPU Bus Load [%]", lambda place: 1), ("GPU Core Load [%]", percent), ("GPU Memory Usage [%]", lambda place: 2),
    ("GPU 8-pin #1 Input Power [W]", lambda place: 4), ("GPU Rail Powers (avg) [W]", lambda place: 5),
    ("GPU Power [W]", watts), ("GPU Fan1 [RPM]", rpm), ("Drive Temperature [°C]", lambda place: 30),
]  # fmt: skip


def sensor_log(extra: str = "") -> str:
    """A log of hundreds of sensors, in small: the names again at the end, and the devices below them."""
    names = "Date,Time," + ",".join(f'"{name}"' for name, _ in SENSORS) + ","
    rows = [
        f"{24 + (place >= 120)}.12.2025,{clock(place)}," + ",".join(str(of(place)) for _, of in SENSORS) + ","
        for place in range(COUNT)
    ]
    devices = ",," + ",".join(f"GPU [#{place}]: some card" for place in range(len(SENSORS))) + ","
    return "\n".join([names, *rows, names + extra, devices]) + "\n"


@pytest.mark.parametrize("kind", ["cpu", "gpu", "laptop"])
def test_a_log_of_all_sensors_of_a_desktop(tmp_path: Path, kind: str) -> None:
    found = made(tmp_path, sensor_log(), kind)
    holds(found)
    assert any("there are 2 columns 'CPU Package [°C]'; the first is taken" in note for note in found.notes)
    assert found.columns["gpu_power"] == "GPU Power [W]"
    assert found.columns["gpu_load"] == "GPU Core Load [%]"


def test_a_log_that_goes_on_after_its_names_came_again(tmp_path: Path) -> None:
    text = sensor_log()
    names, *rows = text.splitlines()
    holds(made(tmp_path, "\n".join([names, *rows[:40], names, rows[-1], *rows[40:COUNT]])))


def tagged(units: bool = True) -> str:
    names = ["GPU temperature", "GPU usage", "Power", "Fan speed", "Fan tachometer", "CPU1 temperature",
             "CPU temperature", "CPU usage", "CPU power", "RAM usage"]  # fmt: skip
    of = ["C", "%", "W", "%", "RPM", "C", "C", "%", "W", "MB"]
    head = ["00, 24-12-2025 10:00:00, Hardware monitoring log v1.6 ", "01, 24-12-2025 10:00:00, Some Card"]
    short = [*head, "02, 24-12-2025 10:00:00, GPU usage           ,CPU usage           ",
             "80, 24-12-2025 10:00:00, 1.000               ,2.000               "]  # fmt: skip
    rows = [
        f"80, 24-12-2025 10:{place // 60:02d}:{place % 60:02d}, "
        + ",".join(f"{value:<20}" for value in (celsius(place), percent(place), watts(place), 33, rpm(place), 9,
                                                celsius(place), percent(place), watts(place), 8_000))
        for place in range(COUNT)
    ]  # fmt: skip
    said = [f"03, 24-12-2025 10:00:00, {place:<20},{unit:<20},0.000,100.000" for place, unit in enumerate(of)]
    listed = "02, 24-12-2025 10:00:00, " + ",".join(f"{name:<20}" for name in names)
    return "\n".join([*short, *head, listed, *(said if units else []), *rows, *head, listed])


@pytest.mark.parametrize("units", [True, False])
def test_tagged_records_of_a_card(tmp_path: Path, units: bool) -> None:
    holds(made(tmp_path, tagged(units), "gpu", "log.hml"))
    # The card's fan does not cool the processor.
    holds(made(tmp_path, tagged(units), "cpu", "log.hml"), fan=False)


def test_identifiers_above_the_names(tmp_path: Path) -> None:
    columns = [
        ("/intelcpu/0/load/0", "CPU Total", percent), ("/intelcpu/0/load/1", "CPU Core #1", lambda place: 5),
        ("/intelcpu/0/temperature/0", "CPU Core #1", lambda place: 66),
        ("/intelcpu/0/temperature/4", "CPU Package", celsius), ("/intelcpu/0/power/0", "CPU Package", watts),
        ("/intelcpu/0/clock/1", "CPU Core #1", lambda place: 4_000), ("/lpc/some/fan/0", "Fan #1", rpm),
        ("/lpc/some/control/0", "Fan Control #1", lambda place: 40), ("/hdd/0/temperature/0", "Temperature", rpm),
        ("/ram/load/0", "Memory", lambda place: 50),
    ]  # fmt: skip
    rows = [f"12/24/2025 10:{place // 60:02d}:{place % 60:02d}," + ",".join(f'"{of(place)}"' for _, _, of in columns)
            for place in range(COUNT)]  # fmt: skip
    lines = ["," + ",".join(each for each, _, _ in columns), "Time," + ",".join(f'"{each}"' for _, each, _ in columns)]
    holds(made(tmp_path, "\n".join([*lines, *rows])))


def test_several_cards_in_turn(tmp_path: Path) -> None:
    rows = [
        f"2025/12/24 10:{place // 60:02d}:{place % 60:02d}.{card}00, {card}, Some Card, "
        f"{celsius(place) + card * 20:g}, {percent(place)} %, {watts(place) + card} W, [N/A]"
        for place in range(COUNT) for card in range(3)
    ]  # fmt: skip
    names = "timestamp, index, name, temperature.gpu, utilization.gpu [%], power.draw [W], fan.speed [%]"
    text = "\n".join([names, *rows])
    found = made(tmp_path, text, "gpu")
    holds(found, fan=False)
    assert any("rows of 3 devices take turns (column index: 0, 1, 2); 0 is taken" in note for note in found.notes)
    path = tmp_path / "log.csv"
    third = read(path, Choice("gpu", device=2)).recording
    assert third.temperatures_celsius.tolist() == [celsius(place) + 40.0 for place in range(COUNT)]
    assert len(read(path, Choice("gpu", where={"index": "1"})).recording.times_seconds) == COUNT
    with pytest.raises(RecordingError, match="--device 7: column index has no such row; there are 0, 1, 2"):
        read(path, Choice("gpu", device=7))


def test_a_column_of_loads_called_cpu_is_no_list_of_devices(tmp_path: Path) -> None:
    rows = [f"{place},{percent(place)},{celsius(place)},{watts(place)},{rpm(place)}" for place in range(COUNT)]
    holds(made(tmp_path, "\n".join(["time,cpu,temp,power,fan", *rows])))


def test_columns_aligned_with_blanks(tmp_path: Path) -> None:
    names = "Time_Of_Day_Seconds  CPU   Busy%   Bzy_MHz  PkgTmp   PkgWatt"
    rows = []
    for place in range(COUNT):
        if place % 20 == 0:
            rows.append(names)
        moment = f"{1_700_000_000 + place}.25"
        rows += [f"{moment}  -   {percent(place)}   4000  {celsius(place)}   {watts(place)}",
                 f"{moment}  0   1   4000  {celsius(place)}  {watts(place)}", f"{moment} 1  2  4000  -  -"]  # fmt: skip
    holds(made(tmp_path, "\n".join(rows)), fan=False)


def test_times_with_a_line_between_date_and_clock_and_a_load_of_all_cores(tmp_path: Path) -> None:
    rows = [f"2025-12-24_10:{place // 60:02d}:{place % 60:02d},{celsius(place)},30.5,1800.0,{percent(place)},7.7"
            for place in range(COUNT)]  # fmt: skip
    names = 'Time,"Temp:Soc_Thermal,0","Temp:Npu_Thermal,0",Frequency:Avg,Util:Avg,Util:Core 0'
    holds(made(tmp_path, "\n".join([names, *rows]), "board"), power=False, fan=False)


def test_a_summary_below_and_titles_above_the_table(tmp_path: Path) -> None:
    rows = [f"19:08:{place % 60:02d}:531, 459519, {place}.5, {percent(place)}, {watts(place)}, 1.5, {celsius(place)}, 0"
            for place in range(COUNT)]  # fmt: skip
    names = ("System Time,RDTSC,Elapsed Time (sec), CPU Utilization(%),Processor Power_0(Watt),DRAM Power_0(Watt),"
             "Package Temperature_0(C),Package Hot_0")  # fmt: skip
    text = "\n".join(["Some Logger 3.6", "", names, *rows, "", "Total Elapsed Time (sec) = 90.0", "Measured RDTSC = 2"])
    holds(made(tmp_path, text), fan=False)


def test_zeros_that_a_loss_of_power_left(tmp_path: Path) -> None:
    rows = [f"{place},{celsius(place)},{percent(place)}" for place in range(COUNT)]
    text = "t_s,cpu_temp_c,cpu_load_percent" + "\0" * 900 + "\n".join([*rows[:50], "\0" * 64, *rows[50:]])
    holds(made(tmp_path, text), power=False, fan=False)


def test_two_bytes_a_character_without_a_mark(tmp_path: Path) -> None:
    rows = [f"{place},{celsius(place)},{percent(place)}" for place in range(COUNT)]
    for name in ("utf-16-le", "utf-16-be"):
        path = tmp_path / "log.csv"
        path.write_bytes("\n".join(["t_s,cpu_temp_c,cpu_load_percent", *rows]).encode(name))
        holds(read(path, Choice("board")), power=False, fan=False)


def test_a_few_lines_that_are_no_samples_are_left_out_and_many_are_refused(tmp_path: Path) -> None:
    rows = [f"{place},{celsius(place)},{percent(place)}" for place in range(COUNT)]
    names = "t_s,cpu_temp_c,cpu_load_percent"
    found = made(tmp_path, "\n".join([names, *rows[:9], "9,4", "9,41,5,9,42,6", *rows[9:]]))
    holds(found, power=False, fan=False)
    assert any("2 of 92 lines have another number of cells than the header (the first is line 11: 2, not 3)" in note
               for note in found.notes)  # fmt: skip
    with pytest.raises(RecordingError, match=r"line 11: 2 cells, and the header has 3 \(and 8 lines more\)"):
        made(tmp_path, "\n".join([names, *rows[:9], *["9,4"] * 9, *rows[9:]]))
    with pytest.raises(RecordingError, match="line 1: no names of columns are there"):
        made(tmp_path, "\n".join(f"2025/12/24 10:00:{row}, 5 %, 45 W, 3 MiB" for row in range(10, 60)))


def test_a_column_that_nobody_asked_for_does_not_stop_the_reading(tmp_path: Path) -> None:
    rows = [f"{place},{celsius(place)},{percent(place)},True,{place * 9}" for place in range(COUNT)]
    found = made(tmp_path, "\n".join(["time,gpu_temp,gpu_load,fan,cpu_load", *rows]), "gpu")
    holds(found, power=False, fan=False)
    assert any("'True' is not a number" in note and "left out as fan_rpm" in note for note in found.notes)
    assert any("is it a sum over cores?" in note and "left out as cpu_load" in note for note in found.notes)


def test_the_room_is_read_where_it_was_recorded(tmp_path: Path) -> None:
    rows = [f"{place},{celsius(place)},{watts(place)},22.75" for place in range(COUNT)]
    found = made(tmp_path, "\n".join(["Timestamp,CPU_Temp_C,CPU_Power_W_Actual,Ambient_Temp_C", *rows]))
    assert found.recording.room_celsius == 22.75
    assert found.recording.between(3, 50, "part").room_celsius == 22.75
    assert "ambient" not in found.temperatures
    hot = made(tmp_path, "\n".join(["Timestamp,cpu_temp,cpu_power,room_temp", *(row[:-5] + "60" for row in rows)]))
    assert hot.recording.room_celsius is None
    assert any("60 C is the air of no room (-20 to 55 C)" in note for note in hot.notes)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Thu Nov 26 07:20:16 UTC 2026", 1_795_677_616.0), ("26-Nov-2026 7:20:16", 1_795_677_616.0),
        ("November 26, 2026, 7:20:16 AM", 1_795_677_616.0), ("26 Nov 2026 19:20:16.5", 1_795_720_816.5),
        ("2026-11-26_07:20:16", 1_795_677_616.0), ("26.11.2026 7:20:16.000", 1_795_677_616.0),
        ("Thu Foo 26 07:20:16 2026", None), ("May be", None), ("Nov 26 07:20:16", None),
    ],
)  # fmt: skip
def test_dates(text: str, seconds: float | None) -> None:
    assert cells.date_seconds(text, day_first=True) == seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("13:7:38.160", 47_258.16), ("17:50:0.168", 64_200.168), ("13:07.8", 787.8), ("19:08:40:531", 68_920.531),
     ("7:20:16 p.m.", 69_616.0), ("13:60.8", None)],
)  # fmt: skip
def test_times_of_day(text: str, seconds: float | None) -> None:
    assert cells.clock_seconds(text) == seconds


@pytest.mark.parametrize(
    ("name", "quantity", "unit"),
    [
        ("PkgTmp", "temperature", ""), ("PkgWatt", "power", ""), ("Busy%", "load", ""), ("CPU%c1", None, ""),
        ("IA: Thermal Event [Yes/No]", None, ""), ("GPU Memory Allocated [MB]", None, ""), ("fan_state", None, ""),
        ("Power Consumption (%) [% TDP]", None, ""), ("Core Temps [avg]", "temperature", ""), ("cpu_total", "load", ""),
        ("temp ('C)", "temperature", "C"), ("Fan Control #1 [% duty]", None, ""),
    ],
)  # fmt: skip
def test_names(name: str, quantity: str | None, unit: str) -> None:
    found = heading(name)
    assert (found.quantity, found.unit) == (quantity, unit)


# --- gaps -------------------------------------------------------------------------------------------------------------


@given(st.floats(31.0, 300.0), st.floats(0.0, 0.09), st.floats(0.12, 1.0))
def test_a_pause_is_no_gap_where_the_power_goes_on(pause: float, little: float, much: float) -> None:
    def pieces(pause: float, change: float) -> int:
        times = np.append(np.arange(40.0), 39.0 + pause + np.arange(40.0))
        power = np.full(80, 15.0)
        power[40:] += change * 40.0
        power[[0, 79]] = 5.0, 45.0
        return len(Recording("made", times, np.full(80, 50.0), powers_watts=power).pieces())

    assert pieces(pause, little) == 1
    assert pieces(pause, much) == 2
    assert pieces(301.0, little) == 2


# --- bounds -----------------------------------------------------------------------------------------------------------


def test_messages_stay_short_however_many_columns_there_are(tmp_path: Path) -> None:
    names = ",".join(f"column{place}{'x' * 99}" for place in range(3_000))
    with pytest.raises(RecordingError, match="and 2960 more") as caught:
        made(tmp_path, "\n".join([names, ",".join("1" for _ in range(3_000))]))
    assert len(str(caught.value)) < 6_000


def test_a_file_beyond_all_bounds_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "MOST_BYTES", 9_999)
    (tmp_path / "log.csv.gz").write_bytes(gzip.compress(b"t_s,cpu_temp_c,cpu_load\n" + b"1,40,50\n" * 9_999))
    with pytest.raises(RecordingError, match="more than 9999 bytes"):
        read(tmp_path / "log.csv.gz", Choice("cpu"))
    with pytest.raises(RecordingError, match="more than 9999 bytes"):
        made(tmp_path, "1,40,50\n" * 9_999)
    monkeypatch.setattr(cells, "MOST_LINES", 99)
    with pytest.raises(RecordingError, match="more than 99 lines"):
        made(tmp_path, "1,40,50\n" * 100)
