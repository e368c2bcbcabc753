"""Orders of words: which are one, what is wrong with one that is none, and the advice by heat."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.pool.advisor import (
    HeatAdvisor,
    WordFacts,
    check_order,
)
from twin.pool.errors import PoolInputError


@given(st.integers(0, 40).flatmap(lambda n: st.permutations(range(n))))
def test_every_permutation_is_an_order(order) -> None:
    assert check_order(order, len(order)) == ""


@given(st.permutations(range(6)), st.integers(0, 5), st.integers(-3, 9))
def test_an_order_with_one_entry_changed_is_none(order, slot, word) -> None:
    changed = [*order[:slot], word, *order[slot + 1 :]]
    assert (check_order(changed, 6) == "") == (changed == order)


@pytest.mark.parametrize(
    ("order", "wrong"),
    [
        ([0, 1], "2 entries for 3 words"),
        ([0, 1, 2, 3], "4 entries for 3 words"),
        ([0, True, 2], "entry 1 is a bool"),
        ([0.0, 1, 2], "entry 0 is a float"),
        ([0, 1, "2"], "entry 2 is a str"),
        ([0, 1, None], "entry 2 is a NoneType"),
        ([0, 1, -1], "entry 2 is -1; words are 0 to 2"),
        ([0, 1, 3], "entry 2 is 3; words are 0 to 2"),
        ([0, 1, 10**5_000], "entry 2 is a number of more than 18 digits"),
        ([0, 1, 1], "word 1 is there twice"),
    ],
)
def test_what_is_wrong_with_an_order_is_said(order, wrong) -> None:
    assert wrong in check_order(order, 3)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=30), st.randoms(use_true_random=False))
def test_heat_puts_hot_tiers_first_then_the_hotter_then_the_lower_number(words, chance) -> None:
    slots = list(range(len(words)))
    chance.shuffle(slots)
    heat = HeatAdvisor()
    tiers, heats = [tier for tier, _ in words], [heat for _, heat in words]
    heat.ask(0, WordFacts(np.array(heats), np.array(tiers), np.array(slots), 64))
    best = sorted(range(len(words)), key=lambda word: (tiers[word], -heats[word], word))
    already = sorted(range(len(words)), key=lambda word: slots[word])
    assert heat.answer(0) == (None if best == already else best)
    assert heat.answer(1) is None
    assert (heat.counts.asked, heat.counts.good) == (1, 1)


def test_facts_are_copies_and_of_one_length() -> None:
    heat = np.array([1, 2], dtype=np.int64)
    told = WordFacts(heat, heat, heat, 64)
    heat[0] = 9
    assert told.heat_q48.tolist() == [1, 2]
    with pytest.raises(PoolInputError, match="2 heats, 1 tiers and 2 slots"):
        WordFacts(heat, heat[:1], heat, 64)
