"""The adaptive law's loops: words, window, inference, modes; and the figure that each correction changes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from twin.clock import ModelledLateness, VirtualEnvironment
from twin.heart import inference, loops, ticks
from twin.heart.adaptive import AdaptiveLaw
from twin.heart.heartbeat import Heartbeat
from twin.heart.stream import PHRASE_WORDS, choose, phrase_book, recite
from twin.kernels import MODE, Integers
from twin.pool.layout import FROZEN, WARM
from twin.pool.tiers import HEAT_MAX, KNEE, ONE_EXECUTION
from twin.scenario import Heartbeat as Settings

MS = 1_000_000
SMALL = {"capacity_words_per_second": 200_000, "words": 64, "inference_ticks": 10}
ALL = "1_1_1_1_1_1"
compiled_only = pytest.mark.skipif(MODE == "python", reason="millions of words")


def run(
    settings: Settings, loads: list[tuple[int, int]], seed: int = 1, batch: bool = True
) -> tuple[Heartbeat, Integers]:
    env = VirtualEnvironment(ModelledLateness(settings.lateness_quantiles_ns, seed), batch)
    heart, taken, at = Heartbeat(settings, seed), [], 0

    def flush() -> None:
        taken.append(heart.captured.copy())
        heart.clear()

    for duration, words in loads:
        heart.feed(words, None)
        at += duration
        while heart.due_ns < at:
            if heart.due_ns > env.now:
                env.run(until=heart.due_ns)
            heart.run(env, at, flush)
        flush()
    return heart, np.concatenate(taken, axis=1)


def adaptive(heart: Heartbeat) -> AdaptiveLaw:
    assert isinstance(heart.law, AdaptiveLaw)
    return heart.law


configs = st.tuples(*[st.sampled_from("01")] * 6).map("_".join)
load_lists = st.lists(st.tuples(st.integers(3 * MS, 40 * MS), st.integers(0, 250_000)), min_size=1, max_size=4)


# --- the word stream --------------------------------------------------------------------------------------------------


@given(st.integers(0, 1 << 40), st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(1, 65_536))
def test_words_do_not_depend_on_how_they_are_cut_into_batches(first, cuts, words) -> None:
    whole, pieces = np.zeros(sum(cuts), dtype=np.int64), np.zeros(sum(cuts), dtype=np.int64)
    choose(1, 2, first, words, whole, 0, len(whole))
    at = 0
    for cut in cuts:
        choose(1, 2, first + at, words, pieces, at, cut)
        at += cut
    assert np.array_equal(whole, pieces)
    assert whole.min() >= 0
    assert whole.max() < words


@given(st.integers(0, 1 << 40), st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(1, 300))
def test_a_book_of_phrases_recites_what_would_be_chosen(first, cuts, words) -> None:
    book = phrase_book(1, 2, words)
    chosen, recited = np.zeros(sum(cuts), dtype=np.int64), np.full(sum(cuts), -1, dtype=np.int64)
    choose(1, 2, first, words, chosen, 0, len(chosen))
    at = 0
    for cut in cuts:
        recite(1, 2, first + at, book, recited, at, cut)
        at += cut
    assert np.array_equal(chosen, recited)


def test_a_program_runs_the_same_few_sequences_again_and_again() -> None:
    chosen = np.zeros(PHRASE_WORDS * 2_000, dtype=np.int64)
    choose(1, 2, 0, 1_024, chosen, 0, len(chosen))
    phrases, counts = np.unique(chosen.reshape(-1, PHRASE_WORDS), axis=0, return_counts=True)
    assert len(phrases) <= 256
    assert counts.max() > 2_000 / 256 * 8


# --- what must hold with any loops ------------------------------------------------------------------------------------


@given(configs, st.booleans(), load_lists, st.integers(0, 3))
def test_with_any_loops_one_tick_at_a_time_gives_the_bits_of_a_batch(config, select, loads, seed) -> None:
    settings = Settings(config=config, select_mode=select, **SMALL)
    batched, rows = run(settings, loads, seed)
    single, same_rows = run(settings, loads, seed, batch=False)
    assert np.array_equal(rows, same_rows)
    for name in ("state", "heat", "stamp", "tier"):
        assert np.array_equal(getattr(batched, name), getattr(single, name))


@given(configs, st.booleans(), load_lists)
def test_with_any_loops_totals_are_what_a_recount_gives_and_bounds_hold(config, select, loads) -> None:
    settings = Settings(config=config, select_mode=select, decay_max_q48_per_microsecond=20, **SMALL)
    heart, rows = run(settings, loads)
    assert rows[ticks.C_TOTAL, -1] == heart.heat.sum()
    assert rows[ticks.C_HOT, -1] == np.count_nonzero(heart.heat >= settings.hot_executions * ONE_EXECUTION)
    assert heart.heat.min() >= 0
    assert heart.heat.max() <= HEAT_MAX
    assert set(heart.tier.tolist()) <= {0, 1, 2, 3}
    assert (rows[ticks.C_CACHE_HITS] + rows[ticks.C_BUCKET_HITS] == rows[ticks.C_WORDS]).all()
    assert rows[ticks.C_PREFETCH_HITS].sum() <= rows[ticks.C_PREDICTIONS].sum()
    assert rows[ticks.C_WINDOW].min() >= 256
    assert rows[ticks.C_WINDOW].max() <= 4_096
    assert rows[ticks.C_SLOPE].min() >= 1
    assert rows[ticks.C_SLOPE].max() <= 20


@given(configs, st.booleans(), load_lists)
def test_a_loop_that_is_off_leaves_its_state_where_it_began(config, select, loads) -> None:
    heart, rows = run(Settings(config=config, select_mode=select, **SMALL), loads)
    heat_on, window_on, _, predict_on, width_on, slope_on = (flag == "1" for flag in config.split("_"))
    if not heat_on:
        assert not heart.heat.any()
        assert set(heart.tier.tolist()) == {WARM}
    if not window_on and not width_on:
        assert set(rows[ticks.C_WINDOW].tolist()) == {4_096}
    if not predict_on:
        assert not rows[ticks.C_PREDICTIONS].any()
        assert not rows[ticks.C_PREFETCH_HITS].any()
    if not slope_on:
        assert set(rows[ticks.C_SLOPE].tolist()) == {6}
    if not select:
        assert heart.state[ticks.S_MODE] == 0


def test_guesses_come_true_and_make_cache_hits() -> None:
    seconds = 1 if MODE == "python" else 4
    _, rows = run(Settings(capacity_words_per_second=20_000, words=16), [(seconds * 1_000 * MS, 20_000)])
    late = rows[:, rows.shape[1] // 2 :]
    words, guesses = late[ticks.C_WORDS].sum(), late[ticks.C_PREDICTIONS].sum()
    came_true, hits = late[ticks.C_PREFETCH_HITS].sum(), late[ticks.C_CACHE_HITS].sum()
    print(f"guessed {guesses / words:.2f} of the words, {came_true / guesses:.3f} of that right")
    assert guesses > words // 2
    assert came_true > guesses * 8 // 10
    assert hits >= came_true


def test_words_that_nobody_executes_freeze() -> None:
    heart, _ = run(Settings(**SMALL), [(50 * MS, 200_000), (2_000 * MS, 0)])
    assert set(heart.tier.tolist()) == {FROZEN}
    assert heart.state[ticks.S_TOTAL] == 0


# --- L2 and L8 --------------------------------------------------------------------------------------------------------


def window_after(share_then: int, words: Integers, window: int = 1_024) -> int:
    state = np.zeros(ticks.STATE, dtype=np.int64)
    state[ticks.S_WINDOW], state[ticks.S_SHARE], state[ticks.S_EXECUTED] = window, share_then, 5_000
    loops.check_window(state, words)
    return int(state[ticks.S_WINDOW])


def test_the_window_halves_while_diversity_stays_and_doubles_when_it_grows_by_five_percent() -> None:
    alternating = np.arange(inference.RING, dtype=np.int64) % 2
    assert window_after(65_536, alternating) == 512
    assert window_after(65_536 * 96 // 100, alternating) == 512
    assert window_after(65_536 * 95 // 100, alternating) == 2_048
    assert window_after(0, alternating) == 1_024
    assert window_after(65_536, alternating, 256) == 256
    assert window_after(1, alternating, 4_096) == 4_096


@given(st.integers(0, 10_000), st.integers(1, inference.RING))
def test_transitions_are_counted_across_the_end_of_the_ring(first, count) -> None:
    ring = np.random.default_rng(first).integers(0, 3, inference.RING)
    words = ring[(first + np.arange(count)) % inference.RING]
    assert loops.transitions(ring, first, count) == np.count_nonzero(words[1:] != words[:-1])


def test_a_mode_has_the_bits_that_its_figures_ask_for() -> None:
    assert loops.proposed_mode(4_096, 6, 0, 0) == 15
    assert loops.proposed_mode(3_071, 6, 0, 0) == 7
    assert loops.proposed_mode(256, 6, 1_000, 851) == 4
    assert loops.proposed_mode(256, 6, 1_000, 850) == 7
    assert loops.proposed_mode(256, 0, 1_000, 0) == 2


def test_five_equal_proposals_commit_and_a_different_one_starts_the_count_again() -> None:
    state = np.zeros(ticks.STATE, dtype=np.int64)
    state[ticks.S_SLOPE] = 6
    modes = []
    for window in [4_096] * 4 + [256] * 6:
        state[ticks.S_WINDOW] = window
        loops.select_mode(state)
        modes.append(int(state[ticks.S_MODE]))
    assert modes == [0] * 8 + [7] * 2


def test_the_recent_past_of_predictions_is_halved_and_never_grows_for_ever() -> None:
    state = np.zeros(ticks.STATE, dtype=np.int64)
    state[ticks.S_PREDICTIONS], state[ticks.S_PREFETCH_HITS] = 3_000, 1_500
    for _ in range(100):
        loops.select_mode(state)
        assert 0 <= state[ticks.S_ATTEMPTS] < loops.HALVED_AT
        assert abs(2 * state[ticks.S_CAME_TRUE] - state[ticks.S_ATTEMPTS]) <= 4


# --- inference --------------------------------------------------------------------------------------------------------


def scratch_of(heats: np.ndarray) -> np.ndarray:
    scratch = inference.new_scratch()
    scratch[: len(heats)] = heats
    inference.prepare(scratch, len(heats))
    return scratch


def test_critical_values_are_those_of_the_f_distribution() -> None:
    exact = [stats.f.ppf(0.95, chunks - 1, 64 - chunks) for chunks in range(3, 17)]
    assert np.allclose(inference.F_CRITICAL, exact, atol=1e-4)
    assert pytest.approx(stats.chi2.ppf(0.95, 1), abs=1e-4) == inference.SLOPE_F


@pytest.mark.parametrize(("count", "size"), [(1_024, 256), (4_096, 256), (4_096, 1_344), (3_000, 320)])
def test_the_statistic_is_the_analysis_of_variance_of_the_blocks_deviations(count, size) -> None:
    heats = np.random.default_rng(count + size).gamma(2.0, 3.0, count)
    chunks = heats[count % size :].reshape(-1, size)
    deviations = abs(chunks - chunks.mean(axis=1, keepdims=True)).reshape(len(chunks), -1, 64).mean(axis=2)
    assert inference.levene(scratch_of(heats), count, size) == pytest.approx(stats.f_oneway(*deviations).statistic)


def test_the_window_is_narrow_for_an_even_program_and_as_wide_as_an_uneven_one_needs() -> None:
    rng = np.random.default_rng(5)
    even = rng.normal(5.0, 1.0, 4_096)
    assert inference.width(scratch_of(even), 4_096) == 256
    # Spread that changes every 512 words: only wider windows see as much of it as each other.
    uneven = even * np.repeat([1.0, 4.0] * 4, 512)
    assert inference.width(scratch_of(uneven - uneven.mean()), 4_096) > 512
    assert inference.width(scratch_of(np.full(4_096, 7.25)), 4_096) == 256
    assert inference.width(scratch_of(even[:300]), 300) == 300


@given(st.integers(1, 1 << 47))
def test_the_logarithm_of_a_heat_is_close(heat) -> None:
    assert inference.ln_heat(heat) == pytest.approx(float(np.log(heat)), abs=2e-7)


@pytest.mark.parametrize("time_constant_ms", [5, 20, 200])
def test_the_cooling_that_is_found_is_the_one_that_was_put_in(time_constant_ms) -> None:
    words = 1_000
    ring, seen = np.arange(inference.RING, dtype=np.int64) % words, np.zeros(words, dtype=np.int64)
    times = np.arange(inference.RING, dtype=np.int64) * 20
    heats = np.exp((times - times[-1]) / (time_constant_ms * 1_000) + 15.0).astype(np.int64)
    rate = inference.cooling(ring, times, heats, seen, 1, inference.RING, inference.RING, int(times[-1]))
    print(f"cooling time {1e-3 / rate:.1f} ms, put in {time_constant_ms} ms")
    assert rate * time_constant_ms * 1_000 == pytest.approx(1.0, rel=0.01)


def test_no_cooling_is_found_where_there_is_none() -> None:
    ring, times = np.arange(inference.RING, dtype=np.int64), np.arange(inference.RING, dtype=np.int64)
    flat = np.full(inference.RING, 1 << 20, dtype=np.int64)
    for heats, when in ((flat, times), (flat * 0, times), (times + 1, flat)):
        seen = np.zeros(inference.RING, dtype=np.int64)
        assert inference.cooling(ring, when, heats, seen, 1, 8_192, inference.RING, int(when[-1])) == 0.0


@given(st.integers(1, 65_536), st.floats(0.0, 1.0), st.integers(1, 65_536), st.integers(1, 65_536))
def test_the_slope_stays_in_its_bounds_and_moves_by_at_most_a_factor_of_two(slope, rate, a, b) -> None:
    low, high = min(a, b), max(a, b)
    slope = min(max(slope, low), high)
    after = int(inference.next_slope(slope, rate, low, high))
    assert low <= after <= high
    assert after <= 2 * slope
    assert 2 * after >= slope
    if rate == 0.0:
        assert after == slope


@pytest.mark.parametrize("wanted", [1, 2, 15, 90])
def test_the_slope_reaches_what_is_wanted_from_anywhere(wanted) -> None:
    for begin in (1, 6, 96):
        slope = begin
        for _ in range(60):
            slope = int(inference.next_slope(slope, wanted / KNEE, 1, 96))
        assert slope == wanted


# --- what the corrections change --------------------------------------------------------------------------------------


@compiled_only
def test_heat_settles_under_a_steady_load_instead_of_growing_for_ever() -> None:
    _, rows = run(Settings(), [(20_000 * MS, 150_000)])
    heat = rows[ticks.C_TOTAL] / ONE_EXECUTION / 1_024
    quarter = len(heat) // 4
    second, last = heat[quarter : 2 * quarter].mean(), heat[-quarter:].mean()
    # What a loss that does not depend on the heat would have left: everything gained, less at most 6 us a word.
    gained = rows[ticks.C_WORDS].sum() / 1_024
    unbounded = gained - 20e6 * 6 / ONE_EXECUTION
    print(f"mean heat {second:.1f}, then {last:.1f} executions; with a constant loss at least {unbounded:.0f}")
    assert abs(last - second) < 0.05 * second
    assert unbounded > 20 * last


@compiled_only
@pytest.mark.parametrize(("words", "low", "high"), [(37_500, 5, 12), (150_000, 20, 45), (450_000, 60, 96)])
def test_the_slope_settles_inside_its_bounds_and_follows_the_load(words, low, high) -> None:
    settings = Settings(config=ALL, select_mode=False)
    _, rows = run(settings, [(10_000 * MS, words)])
    slope = rows[ticks.C_SLOPE, rows.shape[1] // 2 :]
    print(f"{words:,} words a second: slope {slope.mean():.1f} +- {slope.std():.1f} Q48.16 per us (began at 6)")
    assert low <= slope.mean() <= high
    assert slope.std() < 0.15 * slope.mean()


@compiled_only
def test_the_window_settles_and_can_grow_again() -> None:
    settings = Settings(config="1_0_1_1_1_0", select_mode=False)
    _, rows = run(settings, [(10_000 * MS, 450_000)])
    window = rows[ticks.C_WINDOW, rows.shape[1] // 2 :]
    print(f"steady window {window.mean():.0f} +- {window.std():.0f} words")
    assert np.median(window) == 256
    # An uneven program after an even one: the next inference widens it again.
    heart, _ = run(settings, [(1_000 * MS, 450_000)])
    heart.state[ticks.S_WINDOW] = 256
    _, late = run(settings, [(1_000 * MS, 450_000), (100 * MS, 0), (400 * MS, 10_000)])
    assert late[ticks.C_WINDOW].max() > 256


@compiled_only
def test_an_early_exit_renews_the_clock_of_inferences() -> None:
    heart, rows = run(Settings(config=ALL, select_mode=False), [(10_000 * MS, 150_000)])
    number, early = int(heart.state[ticks.S_INFERENCES]), int(heart.state[ticks.S_EARLY_EXITS])
    thousand = rows.shape[1] / 1_000
    print(f"{number / thousand:.1f} inferences, {early / thousand:.2f} early exits per 1,000 ticks")
    assert early > 0
    # Without its clock renewed, an early exit would be followed by an inference at each tick.
    assert number <= rows.shape[1] // 100 + 1


@compiled_only
def test_the_mode_selector_really_holds_the_window_loop() -> None:
    held, _ = run(Settings(config="1_1_1_1_0_0"), [(2_000 * MS, 150_000)])
    free, _ = run(Settings(config="1_1_1_1_0_0", select_mode=False), [(2_000 * MS, 150_000)])
    print(f"window {held.state[ticks.S_WINDOW]} with the selector, {free.state[ticks.S_WINDOW]} without")
    # Below three quarters of the ring the L2 bit goes off, and the window stays where it is.
    assert held.state[ticks.S_WINDOW] in (1_024, 2_048)
    assert free.state[ticks.S_WINDOW] == 256
