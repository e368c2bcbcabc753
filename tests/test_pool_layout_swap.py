"""Carrying an order out: words change places whole, readers notice, and what cannot be moved stays."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.kernels import Integers
from twin.pool import advisor as advisor_module
from twin.pool.advisor import (
    apply_layout,
    relayed,
    swap_blocks,
)
from twin.pool.errors import PoolInputError
from twin.pool.layout import H_HEAT, H_OWNER, H_SEQUENCE, H_SIZE, H_STAMP, UNIT_CELLS, header_is_whole, write_word


def words_in_memory(place: list[int], payload_cells: int, chance) -> tuple[Integers, Integers]:
    """Cells with a used block of owner 3 at each of the slots that `place` names, everything else noise."""
    step = UNIT_CELLS + payload_cells + 2
    at = np.array([5 + slot * step for slot in place], dtype=np.int64)
    cells = np.array([chance.getrandbits(62) for _ in range(10 + step * len(place))], dtype=np.int64)
    for block in at:
        cells[block + H_SIZE] = (payload_cells * 8 + 1) * 4 + chance.randrange(4)
        cells[block + H_OWNER] = 3
        cells[block + H_SEQUENCE] = 2 * chance.randrange(3)
        write_word(cells, block, 1, 2)
    return cells, at


def carried(cells: Integers, block: int, payload_cells: int) -> list[int]:
    """What goes with a word: heat, stamp, tier, payload."""
    payload = cells[block + UNIT_CELLS : block + UNIT_CELLS + payload_cells].tolist()
    return [int(cells[block + H_HEAT]), int(cells[block + H_STAMP]), int(cells[block + H_SIZE]) & 3, *payload]


layouts = st.integers(0, 12).flatmap(
    lambda n: st.tuples(st.permutations(range(n)), st.permutations(range(n)), st.integers(0, 3))
)


@given(layouts, st.randoms(use_true_random=False))
def test_a_layout_moves_words_whole_and_nothing_else(layout, chance) -> None:
    slots, order, payload_cells = layout
    cells, place = words_in_memory(slots, payload_cells, chance)
    before, old_place = cells.copy(), place.copy()
    expected = relayed(order, place)
    assert place.tolist() == old_place.tolist()
    swaps = apply_layout(cells, place, order, payload_cells)
    assert place.tolist() == expected.tolist()
    sorted_slots = sorted(old_place.tolist())
    assert [int(place[word]) for word in order] == sorted_slots
    assert swaps <= max(len(order) - 1, 0)
    for word in range(len(order)):
        assert carried(cells, place[word], payload_cells) == carried(before, old_place[word], payload_cells)
    for block in sorted_slots:
        assert header_is_whole(cells, block)
        # A reader sees that something happened, and a block that was never committed stays so.
        was, now = int(before[block + H_SEQUENCE]), int(cells[block + H_SEQUENCE])
        assert now % 2 == 0
        assert (now == 0) == (was == 0)
        moved = carried(cells, block, payload_cells) != carried(before, block, payload_cells)
        assert now > was or was == 0 or payload_cells == 0 or not moved
        for cell in (H_SEQUENCE, H_HEAT, H_STAMP, *range(UNIT_CELLS, UNIT_CELLS + payload_cells)):
            before[block + cell] = cells[block + cell]
        before[block + H_SIZE] = before[block + H_SIZE] >> 2 << 2 | cells[block + H_SIZE] & 3
    assert cells.tolist() == before.tolist()


@given(layouts, st.randoms(use_true_random=False))
def test_a_layout_and_then_the_old_one_is_as_if_nothing_had_been(layout, chance) -> None:
    slots, order, payload_cells = layout
    cells, place = words_in_memory(slots, payload_cells, chance)
    for block in place:
        cells[block + H_SEQUENCE] = 0
    before, old_place = cells.copy(), place.copy()
    apply_layout(cells, place, order, payload_cells)
    apply_layout(cells, place, np.argsort(old_place), payload_cells)
    assert place.tolist() == old_place.tolist()
    assert cells.tolist() == before.tolist()


def test_readers_see_an_odd_sequence_while_payload_moves(monkeypatch) -> None:
    monkeypatch.setattr(advisor_module, "fence", lambda: None)
    a, b = 0, UNIT_CELLS + 2
    seen = []

    class Watched(list):
        def __setitem__(self, cell, value) -> None:
            if cell % (UNIT_CELLS + 2) >= UNIT_CELLS:
                seen.append((self[a + H_SEQUENCE], self[b + H_SEQUENCE]))
            super().__setitem__(cell, value)

    cells = Watched([0] * (2 * (UNIT_CELLS + 2)))
    cells[a + H_SEQUENCE], cells[b + H_SEQUENCE] = 2, 8
    getattr(swap_blocks, "py_func", swap_blocks)(cells, a, b, 2)
    assert seen == [(3, 9)] * 4
    assert (cells[a + H_SEQUENCE], cells[b + H_SEQUENCE]) == (4, 10)


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda cells, place: cells.__setitem__(place[0] + H_OWNER, 4), "owners 3 to 4"),
        (lambda cells, place: cells.__setitem__(place[0] + H_SIZE, 400), "hold 17 to 100 bytes"),
        (lambda cells, place: cells.__setitem__(place + H_SIZE, 60), "16 bytes or more"),
        (lambda cells, place: cells.__setitem__(place[1] + H_SEQUENCE, 7), "is being written"),
        (lambda cells, place: place.__setitem__(0, place[1]), "overlap"),
        (lambda cells, place: place.__setitem__(0, len(cells) - UNIT_CELLS), "outside"),
        (lambda cells, place: place.__setitem__(0, -1), "outside"),
    ],
)
def test_words_that_cannot_change_places_stay_and_the_reason_is_said(spoil, match) -> None:
    cells, place = words_in_memory([2, 0, 1], 2, random.Random(1))
    spoil(cells, place)
    before, old_place = cells.copy(), place.copy()
    with pytest.raises(PoolInputError, match=match):
        apply_layout(cells, place, [0, 1, 2], 2)
    assert cells.tolist() == before.tolist()
    assert place.tolist() == old_place.tolist()


def test_an_order_of_other_words_moves_nothing() -> None:
    cells, place = words_in_memory([2, 0, 1], 2, random.Random(1))
    before = cells.copy()
    with pytest.raises(PoolInputError, match="2 entries for 3 words"):
        apply_layout(cells, place, [0, 1], 2)
    with pytest.raises(PoolInputError, match="twice"):
        relayed(np.array([1, 1, 0]), place)
    assert cells.tolist() == before.tolist()
