"""The reference law, worked out by hand from its equations, and against the obvious way to calculate it."""

from __future__ import annotations

import os
import subprocess
import sys
from hashlib import blake2b

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.heart import q48, ticks
from twin.heart import reference as law
from twin.heart import reference_inference as inference
from twin.heart import reference_steps as steps
from twin.heart.reference import ReferenceLaw
from twin.kernels import MODE, Integers
from twin.pool.layout import H_HEAT, H_STAMP, UNIT_CELLS

MS = 1_000_000


def array(*numbers: int) -> Integers:
    return np.array(numbers, dtype=np.int64)


def make(words: int = 8, **options) -> ReferenceLaw:
    options = {"t0_ns": MS, "keys": (1, 2), **options}
    cells = np.zeros(words * UNIT_CELLS, dtype=np.int64)
    return ReferenceLaw(cells, np.arange(words, dtype=np.int64) * UNIT_CELLS, **options)


def heat_of(made: ReferenceLaw, number: int) -> int:
    return int(made.memory.cells[made.memory.place[number] + H_HEAT])


def stamp_of(made: ReferenceLaw, number: int) -> int:
    return int(made.memory.cells[made.memory.place[number] + H_STAMP])


def execute(made: ReferenceLaw, number: int, now_ns: int) -> None:
    memory = made.memory
    law.execute(
        made.parameters,
        made.state,
        memory.cells,
        memory.place,
        memory.ring,
        memory.links,
        memory.cached,
        array(number),
        now_ns,
    )


def set_heat(made: ReferenceLaw, number: int, heat: int) -> None:
    law.set_heat(made.state, made.memory.cells, made.memory.place[number], heat)


def cool(made: ReferenceLaw, number: int, now_ns: int) -> None:
    law.cool(made.parameters, made.state, made.memory.cells, made.memory.place[number], now_ns)


def promote(made: ReferenceLaw, number: int) -> None:
    law.promote(made.state, made.memory.cached, number)


def cache(made: ReferenceLaw) -> list[int]:
    return made.state[law.S_CACHE :].tolist()


def run(
    made: ReferenceLaw, until_ns: int, rate: int, lateness: Integers | None = None, at_once: int = 10_000
) -> Integers:
    """Tick until a time; the captured ticks."""
    made.state[ticks.S_RATE] = rate
    late = np.zeros(20_000, dtype=np.int64) if lateness is None else lateness
    captured = np.zeros((ticks.COLUMNS, 20_000), dtype=np.int64)
    row = 0
    while made.state[ticks.S_DUE] < until_ns and row < len(late):
        row += made.run(late[row : row + at_once], until_ns, captured, row)
    return captured[:, :row]


# --- L1, L3 -----------------------------------------------------------------------------------------------------------


def test_an_execution_decays_first_and_then_heats_by_one() -> None:
    made = make(select_mode=False, slope_q48=65_536)
    set_heat(made, 3, 10)
    execute(made, 3, 4_000)  # 10 - 4 + 1
    assert heat_of(made, 3) == 7
    assert stamp_of(made, 3) == 4_000
    execute(made, 3, 4_999)  # 999 ns: no decay, and the stamp moves all the same
    assert heat_of(made, 3) == 8
    assert stamp_of(made, 3) == 4_999


def test_the_stamp_is_renewed_even_when_nothing_is_lost() -> None:
    # Every 3 us at a slope of 21845: 65535 >> 16 = 0 each time, so that nothing is ever lost. In one go 30 us cost 9.
    made = make(select_mode=False)
    set_heat(made, 0, 100)
    for now in range(3_000, 33_000, 3_000):
        cool(made, 0, now)
    assert heat_of(made, 0) == 100
    made = make(select_mode=False)
    set_heat(made, 0, 100)
    cool(made, 0, 30_000)
    assert heat_of(made, 0) == 100 - 9


def test_mode_bit_4_switches_decay() -> None:
    made = make(slope_q48=65_536)
    set_heat(made, 0, 100)
    cool(made, 0, 10_000)  # mode 0
    assert heat_of(made, 0) == 100
    made.state[law.S_MODE] = 4
    cool(made, 0, 20_000)  # since the stamp: 10 us
    assert heat_of(made, 0) == 90


def test_a_sweep_takes_the_next_words_each_tick_and_goes_round() -> None:
    made = make(words=5, sweep_words=3, select_mode=False)
    for now in (1_000, 2_000):
        law.sweep(made.parameters, made.state, made.memory.cells, made.memory.place, now)
    assert [stamp_of(made, number) for number in range(5)] == [2_000, 1_000, 1_000, 2_000, 2_000]


# --- L2 ---------------------------------------------------------------------------------------------------------------


def test_a_pass_falls_due_every_512_executions_of_the_warm_machine() -> None:
    made = make(config="0_1_0_0_0_0", select_mode=False)
    due = []
    for number in range(1, 3_001):
        execute(made, number % 2, 0)
        if made.state[law.S_PASS_DUE]:
            due.append(number)
            law.serve_window(made.parameters, made.state, made.memory.ring)
    # Warm at the 1,024th, which is the first of the 512.
    assert due == [1_535, 2_047, 2_559]
    # First pass: 4,096 wide, 1,535 of it written, alternating from 1 on: 1,535 changes with that from 0 to 1.
    # Second: 2,047 changes: growth a third, but 4,096 is the widest. Third: 2,559, a quarter.
    assert made.state[law.S_WINDOW] == 4_096
    assert made.state[law.S_DIVERSITY] == 2_559


# --- L4 ---------------------------------------------------------------------------------------------------------------


def follow(made: ReferenceLaw, before: int, number: int, times: int = 1) -> list[tuple[int, int]]:
    """Hits and guesses of as many transitions."""
    return [law.follow(made.memory.links, before, number) for _ in range(times)]


def transitions(made: ReferenceLaw, before: int, counts: dict[int, int]) -> None:
    """Counts as if they had been seen, with the best among them."""
    for number, count in counts.items():
        made.memory.links[before, law.L_COUNTS + number] = count
    made.memory.links[before, law.L_SEEN] = sum(counts.values())
    made.memory.links[before, law.L_BEST] = max(counts, key=lambda number: (counts[number], -number))
    made.memory.links[before, law.L_MOST] = max(counts.values())


def test_speculation_starts_with_the_tenth_transition() -> None:
    made = make()
    assert follow(made, 0, 1, 9) == [(0, -1)] * 9
    # No hit yet: there was no speculation to come true.
    assert follow(made, 0, 1) == [(0, 1)]
    assert follow(made, 0, 1) == [(1, 1)]
    assert follow(made, 0, 2) == [(0, 1)]
    assert made.memory.links[0, law.L_ATTEMPTS] == 3


def test_a_guess_that_was_never_speculated_on_is_no_hit() -> None:
    # Word 0 is every word's best at first, and 0 comes.
    assert follow(make(), 3, 0, 2) == [(0, -1)] * 2


@pytest.mark.parametrize(
    ("counts", "guess"),
    [
        ({1: 4, 2: 5}, 1),  # then 5 of 10 each: 0x8000, and the lower one
        ({1: 4, 2: 6}, 2),  # 6 of 11: it is the best that counts, not the word that came
        ({1: 4, 2: 5, 3: 1}, -1),  # 5 of 11
        ({1: 32_766, 2: 32_766, 3: 2}, -1),  # then 32767 of 65535: 32767.5, truncated 0x7FFF
        ({1: 32_767, 2: 32_768}, 1),  # then 32768 of 65536: 0x8000
        ({1: 32_767, 2: 32_766, 3: 3}, -1),  # then 32768 of 65537: 0x7FFF
    ],
)
def test_speculation_needs_a_probability_of_a_half(counts, guess) -> None:
    made = make()
    transitions(made, 0, counts)
    assert follow(made, 0, 1) == [(0, guess)]


def test_a_speculation_heats_its_word_to_51_and_cools_a_hotter_one() -> None:
    for heat in (0, 50, 51, 10**12):
        made = make(config="1_0_0_1_0_0")
        set_heat(made, 2, heat)
        transitions(made, 0, {2: 10})
        made.state[law.S_PREVIOUS] = 0
        execute(made, 1, 0)
        assert heat_of(made, 2) == 51
        assert made.state[ticks.S_TOTAL] == 51 + 1
        assert made.state[ticks.S_HOT] == 1
        assert made.memory.cached[2] == 1
        assert made.state[law.S_ATTEMPTS] == 1
        execute(made, 2, 0)
        assert made.state[law.S_HITS] == 0  # after word 1 nothing was foretold
        assert made.state[law.S_CACHE_HITS] == 1


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), max_size=60))
def test_the_best_is_what_a_look_at_all_counts_finds(pairs) -> None:
    made = make(words=4)
    for before, number in pairs:
        follow(made, before, number)
        counts = made.memory.links[before, law.L_COUNTS :].tolist()
        assert made.memory.links[before, law.L_BEST] == counts.index(max(counts))
        assert made.memory.links[before, law.L_SEEN] == sum(counts)


def test_equal_probabilities_go_to_the_lowest_word_even_when_its_count_is_less() -> None:
    made = make()
    transitions(made, 0, {3: 65_700, 5: 65_700, 6: 100})
    follow(made, 0, 5)
    # Of 131,501 transitions: 65,700 are 32742.83 and 65,701 are 32743.33 of 65,536.
    assert made.memory.links[0, law.L_BEST] == 5
    follow(made, 0, 6)  # of 131,502: 32742.58 and 32743.08
    assert made.memory.links[0, law.L_BEST] == 5
    follow(made, 0, 6)  # of 131,503: 32742.33 and 32742.83, truncated the same
    assert made.memory.links[0, law.L_BEST] == 3


def test_a_lookup_finds_the_cache_first_and_promotes_above_fifty() -> None:
    made = make(config="0_0_0_0_0_0")
    set_heat(made, 1, 50)
    execute(made, 1, 0)
    assert made.memory.cached[1] == 0
    set_heat(made, 1, 51)
    execute(made, 1, 0)
    assert made.memory.cached[1] == 1
    assert made.state[law.S_CACHE_HITS] == 0
    execute(made, 1, 0)
    assert made.state[law.S_CACHE_HITS] == 1


def test_a_full_cache_replaces_in_turn_and_takes_a_word_twice() -> None:
    made = make(words=40)
    for number in range(31):
        promote(made, number)
        promote(made, number)  # room is left: nothing twice
    promote(made, 31)
    assert cache(made) == list(range(32))
    promote(made, 35)
    promote(made, 35)
    assert cache(made) == [35, 35, *range(2, 32)]
    assert made.memory.cached[35] == 2
    assert made.memory.cached[0] == made.memory.cached[1] == 0
    for number in range(30):
        promote(made, number)
    promote(made, 36)  # after 32 the turn is the first's again
    assert made.memory.cached[35] == 1
    assert cache(made)[0] == 36


# --- inference --------------------------------------------------------------------------------------------------------


def warmed(**options) -> ReferenceLaw:
    """A law whose last 4,096 executions were 512 of each of words 0 to 7, with heats 1, 2, 4, ..."""
    made = make(select_mode=False, **options)
    made.memory.ring[:] = np.arange(steps.RING) // 512
    made.state[ticks.S_EXECUTED] = steps.RING
    for number in range(8):
        set_heat(made, number, 1 << number)
    return made


def test_an_early_exit_leaves_the_last_inference_and_runs_again() -> None:
    made = warmed(inference_ticks=10, config="1_1_1_1_0_1")
    made.state[ticks.S_TICK] = 99
    for k, inferences, early, last in [(100, 1, 0, 100), (110, 2, 1, 100), (111, 3, 2, 100)]:
        made.state[ticks.S_TICK] = k - 1
        law.tune(made.parameters, made.thresholds, made.state, made.memory, 0)
        assert made.state[law.S_INFERENCES] == inferences
        assert made.state[law.S_EARLY] == early
        assert made.state[law.S_INFERRED] == last
    # 1 ms * 0.8, then twice a quarter more.
    assert made.state[ticks.S_INTERVAL] == 1_250_000


def test_an_inference_applies_width_and_slope_as_flags_and_mode_say() -> None:
    for flags, mode, width, sloped in [
        ("1_1_1_1_1_1", 15, True, True),
        ("1_1_1_1_0_1", 15, False, True),
        ("1_1_1_1_1_0", 15, True, False),
        ("1_1_1_1_1_1", 13, False, True),
        ("1_1_1_1_1_1", 14, True, False),
        ("1_1_1_1_0_0", 15, False, False),
    ]:
        made = warmed(config=flags)
        made.state[law.S_MODE] = mode
        assert not law.infer(made.parameters, made.state, made.memory, 1)
        assert (made.state[law.S_WINDOW] == 256) == width
        assert (made.state[law.S_SLOPE] != 21_845) == sloped
        # The variance is kept whatever is applied.
        assert made.state[law.S_VARIANCE] == inference.variance(made.memory.heats)


def test_a_slope_of_zero_is_not_applied() -> None:
    made = warmed()
    made.memory.ring[:] = 3
    law.infer(made.parameters, made.state, made.memory, 1)
    assert made.state[law.S_SLOPE] == 21_845
    assert made.state[law.S_WINDOW] == 256


def test_fewer_than_two_heats_end_early() -> None:
    made = make()
    execute(made, 1, 0)
    assert law.infer(made.parameters, made.state, made.memory, 7)
    assert made.state[law.S_EARLY] == 1
    assert made.state[law.S_INFERRED] == 0


def test_a_saturated_variance_counts_as_steady() -> None:
    made = warmed()
    set_heat(made, 0, 10**12)
    assert not law.infer(made.parameters, made.state, made.memory, 1)
    assert made.state[law.S_VARIANCE] == q48.LARGEST
    # Ten times the heat elsewhere: saturated again, and so nothing has changed.
    set_heat(made, 1, 10**13)
    assert law.infer(made.parameters, made.state, made.memory, 2)


# --- the whole law ----------------------------------------------------------------------------------------------------

settings = {"words": 24, "inference_ticks": 5, "sweep_words": 7}
flags = st.lists(st.sampled_from("01"), min_size=6, max_size=6).map("_".join)


def everything(made: ReferenceLaw) -> list[bytes]:
    return [made.state.tobytes(), *(part.tobytes() for part in made.memory)]


@given(flags, st.booleans(), st.lists(st.integers(0, 6 * MS), min_size=12, max_size=12), st.integers(0, 60_000))
def test_one_tick_at_a_time_gives_the_bits_of_a_batch(config, select, lateness, rate) -> None:
    late = array(*lateness)
    batch = make(config=config, select_mode=select, **settings)
    rows = run(batch, 10**9, rate, late)
    single = make(config=config, select_mode=select, **settings)
    assert np.array_equal(rows, run(single, 10**9, rate, late, at_once=1))
    assert everything(batch) == everything(single)
    # Running totals are what a recount gives.
    heats = batch.memory.cells[batch.memory.place + H_HEAT]
    assert (heats >= 0).all()
    assert batch.state[ticks.S_TOTAL] == heats.sum()
    assert batch.state[ticks.S_HOT] == np.count_nonzero(heats > 50)
    assert batch.memory.cached.sum() == batch.state[law.S_CACHED]
    assert (rows[ticks.C_CACHE_HITS] + rows[ticks.C_BUCKET_HITS] == rows[ticks.C_WORDS]).all()
    assert rows[ticks.C_PREDICTIONS].sum() == batch.state[law.S_ATTEMPTS]
    assert rows[ticks.C_PREFETCH_HITS].sum() == batch.state[law.S_HITS]
    # A gap is no burst: at most the words of 4 * T0.
    assert (rows[ticks.C_WORDS] <= rate * 4 // 1_000 + 1).all()


def test_loops_that_are_off_leave_their_state_alone() -> None:
    made = make(config="0_0_0_0_0_0", adapt_interval=False, select_mode=False, **settings)
    run(made, 100 * MS, 30_000)
    assert made.state[ticks.S_EXECUTED] > 2_000
    assert not made.memory.cells.any()
    assert not made.memory.links.any()
    for slot, value in [
        (ticks.S_INTERVAL, MS), (law.S_WINDOW, 4_096), (law.S_DIVERSITY, 0), (law.S_SLOPE, 21_845), (law.S_VARIANCE, 0),
        (law.S_INFERENCES, 0), (law.S_MODE, 15), (law.S_ATTEMPTS, 0), (law.S_CACHED, 0),
    ]:  # fmt: skip
        assert made.state[slot] == value


@pytest.mark.parametrize(
    ("loop", "changed"),
    [
        (0, lambda made: made.memory.cells[made.memory.place + H_HEAT].any()),
        (1, lambda made: made.state[law.S_DIVERSITY] != 0),
        (2, lambda made: made.memory.cells[made.memory.place + H_STAMP].any()),
        (3, lambda made: made.memory.links.any()),
        (4, lambda made: made.state[law.S_WINDOW] != 4_096),
        (5, lambda made: made.state[law.S_SLOPE] != 21_845),
    ],
)
def test_each_loop_is_switched_by_its_flag(loop, changed) -> None:
    for on in (True, False):
        # L5 and L6 need heats to look at.
        config = ["1" if (number == loop and on) or (loop > 3 and number == 0) else "0" for number in range(6)]
        made = make(config="_".join(config), adapt_interval=False, select_mode=False, **settings)
        run(made, 100 * MS, 30_000)
        assert bool(changed(made)) == on


def test_an_hour_without_waking_is_no_burst_and_no_deadline_counted_twice() -> None:
    hour = 3_600_000 * MS
    made = make(**settings)
    rows = run(made, hour + 10 * MS, 20_000, np.concatenate([array(0, hour), np.zeros(50, dtype=np.int64)]))
    assert rows[ticks.C_WORDS, 1] <= 20_000 * 4 // 1_000
    assert made.state[ticks.S_MISSED] == hour // int(rows[ticks.C_ASKED, 2])
    assert (np.diff(rows[ticks.C_ELAPSED]) > 0).all()


def test_heats_of_ten_to_the_twelve_are_carried_and_their_total_is_clipped() -> None:
    made = make(select_mode=False, slope_q48=0, config="1_0_1_0_0_0", adapt_interval=False)
    for number in range(8):
        set_heat(made, number, 10**12)
    rows = run(made, 3 * MS, 1_000)
    assert rows[ticks.C_TOTAL, -1] == (8 * 10**12 + rows[ticks.C_WORDS].sum()) << 16
    set_heat(made, 0, 1 << 60)
    assert run(made, 4 * MS, 0)[ticks.C_TOTAL, -1] == ((1 << 47) - 1) << 16


def test_heats_that_the_blocks_have_already_are_taken_over() -> None:
    cells = np.zeros(4 * UNIT_CELLS, dtype=np.int64)
    cells[2 * UNIT_CELLS + H_HEAT] = 70
    made = ReferenceLaw(cells, np.arange(4, dtype=np.int64) * UNIT_CELLS, t0_ns=MS, keys=(0, 0))
    assert made.state[ticks.S_TOTAL] == 70
    assert made.state[ticks.S_HOT] == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"words": 1_025}, "words is 1025; allowed are 1 to 1024"),
        ({"words": 0}, "words is 0"),
        ({"t0_ns": 1}, "t0_ns is 1; allowed are 10"),
        ({"inference_ticks": 0}, "inference_ticks is 0"),
        ({"slope_q48": 1 << 23}, "slope_q48"),
        ({"config": "1_0_1"}, "config is '1_0_1'; allowed are six flags"),
        ({"config": "1_0_1_1_1_2"}, "six flags"),
    ],
)
def test_what_cannot_be_is_refused(options, said) -> None:
    with pytest.raises(ValueError, match=said.replace("(", r"\(")):
        make(**options)


def digest() -> str:
    """Of everything that 400 ticks with all loops leave."""
    made = make(words=32, inference_ticks=20)
    late = np.arange(400, dtype=np.int64) * 37 % 5_000
    rows = run(made, 10**12, 25_000, late)
    assert made.state[law.S_INFERENCES] > 10
    return blake2b(b"".join([rows.tobytes(), *everything(made)])).hexdigest()


def test_compiled_and_interpreted_give_the_same_bits() -> None:
    pytest.importorskip("numba")
    other = "python" if MODE == "numba" else "numba"
    done = subprocess.run(
        [sys.executable, "-c", "import test_heart_reference as t; print(t.digest())"],
        env={**os.environ, "TWIN_KERNELS": other, "PYTHONPATH": os.pathsep.join(["tests", *sys.path])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == digest()
