"""N-grams: what the table learns, what it forgets, and when it dares to guess."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.kernels import Integers
from twin.pool import ngrams

BITS = ngrams.item_bits(3)


def taught(items: list[int], order: int = 3, rows: int = ngrams.ROWS) -> tuple[Integers, int]:
    """A table that has seen `items`, and the context that they leave."""
    table, context = ngrams.new_table(rows), 0
    for item in items:
        ngrams.observe(table, ngrams.row_of(table, context), context, item)
        context = int(ngrams.extended(context, item, ngrams.item_bits(order)))
    return table, context


def guessed(table: Integers, context: int) -> int:
    return int(ngrams.guess(table, ngrams.row_of(table, context), context))


@pytest.mark.parametrize("order", ngrams.ORDERS)
def test_a_context_is_the_last_items_and_nothing_older(order) -> None:
    _, long = taught([9, 9, 9, 1, 2, 3, 4], order)
    _, short = taught([1, 2, 3, 4], order)
    _, other = taught([1, 2, 3, 5], order)
    assert long == short
    assert long != other
    assert 0 <= long < 1 << 62


@pytest.mark.parametrize(("order", "cycle"), [(2, [1, 2, 3]), (3, [1, 1, 2]), (4, [1, 1, 1, 2])])
def test_a_cycle_that_the_order_can_tell_is_foretold(order, cycle) -> None:
    items = cycle * 20
    table, context = taught(items, order)
    for item in cycle * 3:
        assert guessed(table, context) == item
        context = int(ngrams.extended(context, item, ngrams.item_bits(order)))


def test_a_cycle_that_needs_more_context_than_there_is_cannot_be_foretold() -> None:
    table, context = taught([1, 1, 1, 2] * 50, 3)
    wrong = 0
    for item in [1, 1, 1, 2] * 3:
        wrong += guessed(table, context) != item
        context = int(ngrams.extended(context, item, BITS))
    assert wrong >= 3


def test_nothing_is_guessed_before_ten_meetings_and_without_half_of_them() -> None:
    table = ngrams.new_table()
    row = int(ngrams.row_of(table, 77))
    for met in range(1, 12):
        ngrams.observe(table, row, 77, 5)
        assert (guessed(table, 77) == 5) == (met >= ngrams.TOTAL_NEEDED)
    for other in range(100, 112):
        ngrams.observe(table, row, 77, other)
    assert guessed(table, 77) == ngrams.NOTHING


@given(st.lists(st.integers(0, 6), max_size=300))
def test_a_count_is_never_above_the_true_one_and_a_majority_is_never_missed(items) -> None:
    table = ngrams.new_table()
    row = int(ngrams.row_of(table, 3))
    for item in items:
        ngrams.observe(table, row, 3, item)
    item, count = (int(value) for value in ngrams.best(table, row, 3))
    true = Counter(items)
    assert count <= true[item]
    if true and max(true.values()) * 2 > len(items):
        assert item == max(true, key=lambda key: true[key])


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 5)), max_size=400))
def test_rows_keep_their_bounds_whatever_collides_in_them(pairs) -> None:
    table = ngrams.new_table(2)
    for context, item in pairs:
        ngrams.observe(table, ngrams.row_of(table, context), context, item)
        for row in table.reshape(-1, ngrams.ROW_CELLS):
            first = int(row[ngrams.R_TALLY]) >> ngrams.COUNT_SHIFT
            total = (int(row[ngrams.R_TALLY]) & 0xFFFFFFFF) >> ngrams.CREDIT_BITS
            counts = [first, int(row[ngrams.R_COUNT1]), int(row[ngrams.R_COUNT2])]
            assert min(counts) >= 0
            assert max(counts) == first
            assert sum(counts) <= total < ngrams.HALVED_AT
            kept = [int(row[cell]) for cell in (ngrams.R_ITEM0, ngrams.R_ITEM1, ngrams.R_ITEM2)]
            alive = [item for item, count in zip(kept, counts, strict=True) if count]
            assert len(set(alive)) == len(alive)


def test_a_row_changes_hands_only_when_the_other_context_is_met_more_often() -> None:
    table = ngrams.new_table(1)
    for _ in range(100):
        ngrams.observe(table, 0, 1, 5)
    for _ in range(ngrams.CREDIT_MAX):
        ngrams.observe(table, 0, 2, 6)
    assert ngrams.best(table, 0, 1) == (5, 100)
    assert ngrams.best(table, 0, 2) == (ngrams.NOTHING, 0)
    ngrams.observe(table, 0, 2, 6)
    assert ngrams.best(table, 0, 1) == (ngrams.NOTHING, 0)
    assert ngrams.best(table, 0, 2) == (6, 1)


def test_counts_are_halved_before_they_overflow_and_the_guess_stays() -> None:
    table = ngrams.new_table(1)
    for _ in range(ngrams.HALVED_AT + 10):
        ngrams.observe(table, 0, 4, 9)
    item, count = ngrams.best(table, 0, 4)
    assert (item, count) == (9, ngrams.HALVED_AT // 2 + 10)
    assert guessed(table, 4) == 9


def test_the_largest_items_and_contexts_do_not_overflow() -> None:
    table, context = taught([(1 << 62) - 1] * 30)
    assert guessed(table, context) == (1 << 62) - 1
    assert context == (1 << 62) - 1


def test_every_row_lies_on_a_cache_line_of_its_own() -> None:
    assert ngrams.new_table(8).ctypes.data % 64 == 0


@pytest.mark.parametrize("rows", [0, -8, 3, 1 << 25])
def test_a_table_that_is_no_power_of_two_is_refused(rows) -> None:
    with pytest.raises(ValueError, match="must be a power of two from 1 to"):
        ngrams.new_table(rows)


@pytest.mark.parametrize("order", [0, 1, 5])
def test_an_order_that_does_not_exist_is_refused(order) -> None:
    with pytest.raises(ValueError, match="allowed are 2, 3 and 4"):
        ngrams.item_bits(order)


def test_items_are_rows_of_int64() -> None:
    assert ngrams.new_table().dtype == np.int64
