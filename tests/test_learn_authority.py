"""How trust is earned and lost."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twin.learn.authority import (
    BLOCK_CYCLES,
    HARDEST,
    LEVELS,
    SHIELDED_PER_THOUSAND,
    STRANGE_PER_THOUSAND,
    WINDOW_CYCLES,
    Authority,
)

EVIDENCE = 1_000


def live(authority: Authority, cycles: int, reward: int = 0, baseline: int | None = None) -> list[int]:
    """Cycles without trouble in which the learner's earn `reward` and the baseline's `baseline`; the levels passed."""
    levels = []
    for _ in range(cycles):
        turn = authority.baseline_turn
        authority.cycle(baseline if turn and baseline is not None else reward, "", False, False)
        levels.append(authority.percent)
    return levels


def test_it_climbs_one_level_after_each_stretch_of_evidence() -> None:
    authority = Authority(0, 100, EVIDENCE, 0)
    levels = live(authority, 3 * EVIDENCE)
    assert levels == [0] * (EVIDENCE - 1) + [10] * EVIDENCE + [50] * EVIDENCE + [100]


def test_it_never_passes_its_most() -> None:
    authority = Authority(0, 10, EVIDENCE, 0)
    assert set(live(authority, 10 * EVIDENCE)) == {0, 10}


def test_what_breaks_takes_everything_at_once() -> None:
    authority = Authority(100, 100, EVIDENCE, 0)
    authority.cycle(0, "weights are not finite", False, False)
    assert authority.percent == 0
    assert "weights are not finite" in authority.why


@pytest.mark.parametrize(("what", "most"), [("shielded", SHIELDED_PER_THOUSAND), ("strange", STRANGE_PER_THOUSAND)])
def test_one_too_many_in_a_thousand_costs_a_level(what: str, most: int) -> None:
    authority = Authority(100, 100, 10**9, 0)
    for _ in range(most):
        authority.cycle(0, "", what == "shielded", what == "strange")
    assert authority.percent == 100
    live(authority, WINDOW_CYCLES - most)
    assert authority.percent == 100
    authority.cycle(0, "", what == "shielded", what == "strange")
    # The first of them is a thousand cycles old by now: it does not count any more.
    assert authority.percent == 100
    for _ in range(most):
        authority.cycle(0, "", what == "shielded", what == "strange")
    assert authority.percent == 50


def test_regret_costs_a_level_and_makes_the_next_rise_harder() -> None:
    authority = Authority(50, 100, EVIDENCE, 4)
    levels = live(authority, 40 * BLOCK_CYCLES, reward=100_000, baseline=300_000)
    assert levels[-1] == 0
    assert "earned less than the baseline" in authority.why
    # In shadow nothing is compared, so it rises again, but after four times the evidence.
    before = levels.index(0)
    more = live(authority, 5 * EVIDENCE, reward=100_000, baseline=300_000)
    rise = (levels[before:] + more).index(10)
    assert rise == pytest.approx(4 * EVIDENCE, abs=1)


def test_a_learner_that_is_better_keeps_its_authority() -> None:
    authority = Authority(10, 100, EVIDENCE, 4)
    levels = live(authority, 10 * EVIDENCE, reward=300_000, baseline=100_000)
    assert levels == sorted(levels)
    assert levels[-1] == 100


def test_the_baseline_has_one_block_in_every_so_many() -> None:
    authority = Authority(100, 100, 10**9, 8)
    turns = []
    for _ in range(16 * BLOCK_CYCLES):
        turns.append(authority.baseline_turn)
        authority.cycle(0, "", False, False)
    assert turns == ([False] * 7 * BLOCK_CYCLES + [True] * BLOCK_CYCLES) * 2


def test_without_comparison_there_is_no_rise() -> None:
    # A level is not left before both sides have been seen often enough.
    authority = Authority(10, 100, 1, 10**6)
    assert set(live(authority, 2_000)) == {10}


def test_its_state_goes_on_where_it_was() -> None:
    authority = Authority(10, 100, EVIDENCE, 0)
    live(authority, 700)
    again = Authority(0, 100, EVIDENCE, 0)
    again.restore(authority.state())
    assert live(again, 400) == live(authority, 400)
    for wrong in ([], [4, 1, 0, *[0] * 6], [-1, 1, 0, *[0] * 6], [0, HARDEST + 1, 0, *[0] * 6]):
        with pytest.raises(ValueError, match="is no state of an authority"):
            again.restore(wrong)


events = st.tuples(
    st.integers(-1_000_000, 1_000_000), st.sampled_from(["", "", "", "broken"]), st.booleans(), st.booleans()
)


@settings(max_examples=50)
@given(st.lists(events, max_size=400), st.sampled_from(LEVELS), st.integers(1, 50), st.integers(0, 3))
def test_it_moves_one_level_up_and_never_up_on_a_reason(
    cycles: list[tuple[int, str, bool, bool]], start: int, evidence: int, every: int
) -> None:
    authority = Authority(start, 100, evidence, every)
    for reward, broken, shielded, strange in cycles:
        before = LEVELS.index(authority.percent)
        authority.cycle(reward, broken, shielded, strange)
        after = LEVELS.index(authority.percent)
        assert abs(after - before) <= 1 or after == 0
        if broken:
            assert after == 0
