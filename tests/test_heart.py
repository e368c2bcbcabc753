"""The adaptive heartbeat: its properties, the edges of its arithmetic, and one tick at a time against batches."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.clock import Lateness, ModelledLateness, Punctual, VirtualEnvironment
from twin.heart import ticks
from twin.heart.heartbeat import Heartbeat
from twin.kernels import Integers
from twin.pool import tiers
from twin.pool.layout import H_HEAT
from twin.scenario import Heartbeat as Settings
from twin.timing import Wake

MS = 1_000_000
SMALL = Settings(capacity_words_per_second=20_000, words=64)


class Given(Punctual):
    """Lateness from a list, then none."""

    def __init__(self, lateness: list[int]) -> None:
        self._lateness = lateness

    def heart(self, first_tick: int, count: int) -> Integers:
        known = self._lateness[first_tick : first_tick + count]
        return np.array(known + [0] * (count - len(known)), dtype=np.int64)

    def control(self, cycle: int) -> Wake:
        return Wake(0)


def run(
    loads: list[tuple[int, int | None]],
    settings: Settings = SMALL,
    lateness: Lateness | None = None,
    batch: bool = True,
    seed: int = 1,
) -> tuple[Heartbeat, Integers]:
    """Feed `(duration_ns, words per second)` in turn; the heartbeat and all its ticks."""
    env = VirtualEnvironment(lateness, batch)
    heart = Heartbeat(settings, seed)
    taken: list[Integers] = []

    def flush() -> None:
        taken.append(heart.captured.copy())
        heart.clear()

    at = 0
    for duration, words in loads:
        heart.feed(words, None)
        at += duration
        while heart.due_ns < at:
            if heart.due_ns > env.now:
                env.run(until=heart.due_ns)
            heart.run(env, at, flush)
        flush()
    return heart, np.concatenate(taken, axis=1)


load_lists = st.lists(
    st.tuples(st.integers(1 * MS, 60 * MS), st.one_of(st.none(), st.integers(0, 100_000))), min_size=1, max_size=8
)


@given(load_lists, st.lists(st.integers(0, 20 * MS), max_size=40))
def test_interval_stays_in_its_bounds_and_moves_by_at_most_a_quarter_up_or_a_fifth_down(loads, lateness) -> None:
    _, rows = run(loads, lateness=Given(lateness))
    asked = rows[ticks.C_ASKED]
    assert (asked >= MS // 4).all()
    assert (asked <= 4 * MS).all()
    assert (4 * np.diff(asked) <= asked[:-1]).all()
    assert (5 * np.diff(asked) >= -asked[:-1]).all()


@given(load_lists, st.integers(0, 3))
def test_one_tick_at_a_time_gives_the_bits_of_a_batch(loads, seed) -> None:
    lateness = ModelledLateness(SMALL.lateness_quantiles_ns, seed)
    batched, rows = run(loads, lateness=lateness, seed=seed)
    single, same_rows = run(loads, lateness=lateness, seed=seed, batch=False)
    assert np.array_equal(rows, same_rows)
    for name in ("state", "heat", "stamp"):
        assert np.array_equal(getattr(batched, name), getattr(single, name))


@given(load_lists, st.lists(st.integers(0, 20 * MS), max_size=40))
def test_running_totals_are_what_a_recount_gives(loads, lateness) -> None:
    heart, rows = run(loads, lateness=Given(lateness))
    assert (heart.heat >= 0).all()
    assert heart.state[ticks.S_TOTAL] == heart.heat.sum()
    assert heart.state[ticks.S_HOT] == np.count_nonzero(heart.heat >= SMALL.hot_executions * tiers.ONE_EXECUTION)
    assert rows[ticks.C_TICK].tolist() == list(range(rows.shape[1]))


@given(st.integers(0, 2_000_000), st.integers(0, 2_000_000))
def test_more_sustained_load_never_asks_for_a_shorter_interval(a, b) -> None:
    low, high = sorted((a, b))
    assert ticks.target_interval(250_000, 4_000_000, low) <= ticks.target_interval(250_000, 4_000_000, high)
    assert ticks.target_interval(250_000, 4_000_000, 0) == 250_000
    assert ticks.target_interval(250_000, 4_000_000, 1_000_000) == 4_000_000


@given(st.integers(0, 20_000), st.integers(0, 20_000))
def test_a_step_settles_within_a_thousand_ticks_without_overshoot_and_then_stays(before, after) -> None:
    _, first = run([(1_000 * MS, before)])
    _, rows = run([(1_000 * MS, before), (12_000 * MS, after)])
    asked = rows[ticks.C_ASKED][first.shape[1] :]
    final = int(ticks.target_interval(MS // 4, 4 * MS, after * 50))
    outside = np.flatnonzero(abs(asked - final) > final // 20)
    assert len(outside) == 0 or outside[-1] < 1_000
    if after > before:
        assert asked.max() <= final * 1.05
    else:
        assert asked.min() >= final * 0.95
    last = asked[-1_000:]
    assert last.max() - last.min() <= 0.02 * final


def stepped() -> list[int]:
    return [2_000 if (i // 60) % 2 else 18_000 for i in range(360)]


def ramped() -> list[int]:
    return [20_000 * i // 400 for i in range(400)]


def sinusoidal() -> list[int]:
    return [round(10_000 + 8_000 * np.sin(i / 25)) for i in range(400)]


def bursty() -> list[int]:
    rng = np.random.default_rng(4)
    return [int(20_000 * level) for level in np.repeat(rng.choice([0.05, 0.9], 40, p=[0.7, 0.3]), 10)]


@pytest.mark.parametrize("shape", [stepped, ramped, sinusoidal, bursty])
def test_the_interval_follows_the_load(shape, record_property) -> None:
    _, rows = run([(100 * MS, words) for words in shape()])
    load, asked = rows[ticks.C_LOAD].astype(float), rows[ticks.C_ASKED].astype(float)
    correlation = max(np.corrcoef(load[: len(load) - lag], asked[lag:])[0, 1] for lag in range(51))
    print(f"load-interval correlation, {shape.__name__}: {correlation:.4f}")
    assert correlation >= 0.9


def test_an_hour_without_waking_is_no_burst_and_no_tick_counted_twice() -> None:
    hour = 3_600_000 * MS
    heart, rows = run([(hour + 10 * MS, 20_000)], lateness=Given([0, hour]))
    late = rows[:, 1]
    assert late[ticks.C_LATENESS] == hour
    # The words of at most one longest interval, however long the gap was.
    assert late[ticks.C_WORDS] <= 20_000 * 4 // 1_000
    assert (rows[ticks.C_WORDS] <= 20_000 * 4 // 1_000 + 1).all()
    assert heart.missed == hour // int(rows[ticks.C_ASKED, 2])
    assert (np.diff(rows[ticks.C_ELAPSED]) > 0).all()
    # After the gap the beat goes on at its own pace, on the old grid.
    assert rows[ticks.C_ELAPSED, 2] - rows[ticks.C_ELAPSED, 1] <= 4 * MS


def test_no_load_for_an_hour_then_full_load_has_no_catch_up() -> None:
    _, rows = run([(3_600_000 * MS, 0), (1_000 * MS, 20_000)], settings=Settings(
        capacity_words_per_second=20_000, words=64, t0_ns=100 * MS))  # fmt: skip
    words = rows[ticks.C_WORDS]
    intervals = rows[ticks.C_PASSED]
    assert (words <= intervals * 20_000 // 1_000_000_000 + 1).all()


def test_heat_saturates_instead_of_overflowing() -> None:
    settings = Settings(
        words=1, capacity_words_per_second=1_000_000_000, decay_q48_per_microsecond=0, config="1_0_0_0_0_0"
    )
    env = VirtualEnvironment()
    heart = Heartbeat(settings, 1)
    # What 10^12 executions leave: the cap, not 10^12 * 65536 (which would not fit).
    heart.words.cells[heart.words.place[0] + H_HEAT] = tiers.HEAT_MAX - tiers.ONE_EXECUTION
    heart.state[ticks.S_TOTAL] = heart.heat[0]
    heart.feed(1_000_000, None)
    heart.run(env, 20 * MS, heart.clear)
    assert heart.heat[0] == tiers.HEAT_MAX
    assert heart.state[ticks.S_TOTAL] == tiers.HEAT_MAX


@pytest.mark.parametrize("idle_us", [0, 1, 3_600_000_000, (1 << 53)])
def test_decay_neither_overflows_nor_goes_below_zero(idle_us) -> None:
    assert 0 <= tiers.decayed(tiers.HEAT_MAX, idle_us, 65_536) <= tiers.HEAT_MAX
    assert tiers.decayed(1_000, idle_us, 0) == 1_000
    assert tiers.decayed(0, idle_us, 65_536) == 0


def test_decay_is_per_microsecond_however_it_is_cut() -> None:
    # A cold word loses the slope a microsecond, one of `KNEE` twice that; small roundings add up.
    for heat in (20_000, tiers.KNEE, 10**9):
        whole = tiers.decayed(heat, 1_000, 6)
        pieces = heat
        for _ in range(1_000):
            pieces = tiers.decayed(pieces, 1, 6)
        assert abs(whole - pieces) <= heat // 10_000 + 1_000
        expected = 6_000 * (1 + heat / tiers.KNEE)
        assert abs(heat - whole - expected) <= expected * 0.02


def test_unknown_load_holds_the_interval_and_executes_nothing() -> None:
    _, rows = run([(500 * MS, 15_000), (500 * MS, None)])
    known = rows[ticks.C_LOAD] != ticks.UNKNOWN_LOAD
    unknown = ~known
    assert rows[ticks.C_WORDS, unknown][1:].sum() == 0
    assert len(set(rows[ticks.C_ASKED, unknown][1:].tolist())) == 1


def test_without_offered_words_the_processor_load_sets_the_interval() -> None:
    env = VirtualEnvironment()
    heart = Heartbeat(SMALL, 1)
    heart.feed(None, 1_000_000)
    heart.run(env, 1_000 * MS, heart.clear)
    assert heart.state[ticks.S_INTERVAL] > 3_900_000


def test_loops_that_are_off_leave_their_state_alone() -> None:
    off = Settings(capacity_words_per_second=20_000, words=64, config="0_0_1_0_0_0", adapt_interval=False)
    heart, rows = run([(300 * MS, 20_000)], settings=off)
    assert not heart.heat.any()
    assert set(rows[ticks.C_ASKED].tolist()) == {MS}
    assert rows[ticks.C_WORDS].sum() > 0


def test_seed_zero_is_a_seed() -> None:
    zero, _ = run([(100 * MS, 20_000)], seed=0)
    one, _ = run([(100 * MS, 20_000)], seed=1)
    assert not np.array_equal(zero.heat, one.heat)


def test_more_ticks_than_there_is_room_for_are_handed_over_in_between() -> None:
    heart, rows = run([(100 * MS, 0)], settings=Settings(t0_ns=10_000, words=8))
    assert rows.shape[1] == heart.tick_number > 16_384
