"""Carrying an order out: words change places whole, readers notice, and what cannot be moved stays."""

from __future__ import annotations

import os
import random
import subprocess
import sys

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
    getattr(swap_blocks, "py_func", swap_blocks)(cells, a, b, 2, -1)
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


KILLED = """
import sys
import numpy as np
from twin.pool import access, advisor, allocator, recovery
from twin.pool.layout import CELL, DATA_CELL, H_HEAT, H_SEQUENCE, H_SIZE, UNIT_CELLS

PAYLOAD = 8

class Mortal(list):
    left = -1

    def __setitem__(self, at, value):
        if self.left == 0:
            raise InterruptedError
        self.left -= 1
        super().__setitem__(at, int(value))

    def killed_at(self, store, operation):
        self.left = store
        try:
            operation()
        except InterruptedError:
            return True
        finally:
            self.left = -1
        return False

def word(cells, block):
    payload = cells[block + UNIT_CELLS : block + UNIT_CELLS + PAYLOAD]
    return [cells[block + H_HEAT], cells[block + H_SIZE] & 3, *payload]

fresh = np.zeros(DATA_CELL + 20 * UNIT_CELLS, dtype=np.int64)
assert allocator.format_pool(fresh, len(fresh) * CELL) == 0
a, b = (allocator.allocate(fresh, 64, 1, tier) for tier in (0, 2))
for block, fill, sequence in ((a, 7, 2), (b, 9, int(sys.argv[1]))):
    fresh[block + UNIT_CELLS : block + UNIT_CELLS + PAYLOAD] = fill
    fresh[block + H_HEAT] = fill
    fresh[block + H_SEQUENCE] = sequence
none = np.zeros(0, dtype=np.int64)
before = [word(fresh.tolist(), block) for block in (a, b)]
kills = undone = 0
while True:
    cells = Mortal(fresh.tolist())
    if not cells.killed_at(kills, lambda: advisor.swap_blocks(cells, a, b, PAYLOAD, 3)):
        break
    kills += 1
    killed = list(cells)
    deaths = 0
    while True:
        cells = Mortal(killed)
        died = cells.killed_at(deaths, lambda: access.settle(cells, 3))
        deaths += 1
        undone += access.settle(cells, 3)
        assert recovery.recover(cells, none) == recovery.verify(cells) == (0, 0)
        found = [word(cells, block) for block in (a, b)]
        assert found in (before, before[::-1]), (kills, deaths, found)
        assert cells[a + H_SEQUENCE] % 2 == 0 < cells[a + H_SEQUENCE]
        assert cells[b + H_SEQUENCE] % 2 == 0
        assert (cells[b + H_SEQUENCE] == 0) == (fresh[b + H_SEQUENCE] == 0)
        if not died:
            break
assert [word(cells, block) for block in (a, b)] in (before, before[::-1])
print(kills, undone)
"""


@pytest.mark.parametrize("sequence", [0, 6])
def test_a_swap_killed_at_any_store_leaves_two_whole_words_after_recovery(sequence: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(sequence)],
        env={**os.environ, "TWIN_KERNELS": "python"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    kills, undone = map(int, done.stdout.split())
    assert kills > 40
    assert undone > 40
