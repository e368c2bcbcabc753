"""Who says where the words lie: the advisor's interface, advice by heat, and carrying an advice out.

A dictionary word is a block of the pool, and all words' blocks are of one size. The slots are the places of these
blocks, sorted by address. An order is a list with `order[i]` = the word that shall lie in slot i; it names each word
once. Hot words side by side share pages and the hardware's prefetches. An order changes where words lie, and nothing
else: no heat, no tier, no tick and no digest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np

from twin.kernels import Integers, kernel
from twin.pool.access import LONGEST_SWAP_CELLS, begin_swap, end_swap
from twin.pool.errors import PoolInputError
from twin.pool.layout import H_HEAT, H_OWNER, H_SEQUENCE, H_SIZE, H_STAMP, UNIT_CELLS
from twin.pool.lock import fence

KINDS = ("off", "heat", "http")
LONGEST_TIME_LIMIT_MS = 600_000


@dataclass(frozen=True)
class WordFacts:
    """What an advisor is told, one entry a word: copies, which stay as they are when the words go on.

    `heat_q48` is Q48.16 executions (0 or more), `tier` 0 (HOT) to 3 (FROZEN), `slot` where the word lies now (each slot
    once), `block_bytes` the payload of a word's block. Raises `PoolInputError` when the arrays differ in length.
    """

    heat_q48: Integers
    tier: Integers
    slot: Integers
    block_bytes: int

    def __post_init__(self) -> None:
        for name in ("heat_q48", "tier", "slot"):
            object.__setattr__(self, name, np.array(getattr(self, name), dtype=np.int64))
        if not len(self.heat_q48) == len(self.tier) == len(self.slot):
            raise PoolInputError(
                f"facts about words: {len(self.heat_q48)} heats, {len(self.tier)} tiers and {len(self.slot)} slots; "
                "give one of each for every word"
            )

    def __len__(self) -> int:
        """The number of words."""
        return len(self.heat_q48)


@dataclass
class Counts:
    """What became of an advisor's questions.

    `asked` were begun; `good` gave an order, `bad` gave something else, `late` nothing within the time limit, `failed`
    no answer at all. `skipped` were not begun: one was under way, or too many had failed. `reason` is the last trouble.
    """

    asked: int = 0
    good: int = 0
    bad: int = 0
    late: int = 0
    failed: int = 0
    skipped: int = 0
    reason: str = ""

    def __str__(self) -> str:
        numbers = ", ".join(f"{field.name} {getattr(self, field.name)}" for field in fields(self)[:-1])
        return numbers + (f"; last trouble: {self.reason}" if self.reason else "")


class Advisor(Protocol):
    """Says in which order words shall lie. `ask` and `answer` neither wait nor raise; control cycles only rise."""

    name: str
    counts: Counts

    def ask(self, cycle: int, words: WordFacts) -> None:
        """Begin a question; what comes of it `answer` says later."""

    def answer(self, cycle: int) -> Sequence[int] | None:
        """The order that has come since the last call; None when nothing new did."""

    def close(self) -> None:
        """Give up what is under way, at once. A second call does nothing."""


class HeatAdvisor:
    """The hot before the cold: by tier, then the hotter, then the lower word number. The answer is there at once.

    An order in which the words lie already is no news: it counts as good, and `answer` says None.
    """

    def __init__(self) -> None:
        self.name = "heat"
        self.counts = Counts()
        self._order: list[int] | None = None

    def ask(self, cycle: int, words: WordFacts) -> None:
        """Sort the words."""
        self.counts.asked += 1
        self.counts.good += 1
        # The sort is stable, so that the word number decides between equals.
        order = np.lexsort((-words.heat_q48, words.tier))
        moves = bool((words.slot[order] != np.arange(len(order))).any())
        self._order = order.tolist() if moves else None

    def answer(self, cycle: int) -> list[int] | None:
        """The order of the last question, once."""
        order, self._order = self._order, None
        return order

    def close(self) -> None:
        """Forget an order that nobody asked for."""
        self._order = None


def make_advisor(kind: str, url: str, model: str, key_variable: str, time_limit_ms: int) -> Advisor | None:
    """The advisor that a scenario asks for: None for `off`, `heat`, or `http` (see `ChatAdvisor` for the rest).

    Raises `PoolInputError` for another kind and for an `http` that cannot work as it is described.
    """
    if kind == "off":
        return None
    if kind == "heat":
        return HeatAdvisor()
    if kind == "http":
        # Imported here, because HTTP and TLS are much to load for those who never ask anybody.
        from twin.pool.ask import ChatAdvisor

        return ChatAdvisor(url, model, key_variable, time_limit_ms)
    raise PoolInputError(f"layout advisor {kind!r}: there is no such kind; choose one of {', '.join(KINDS)}")


def check_order(order: Sequence[object], words: int) -> str:
    """What is wrong with an order of `words` words, as half a sentence; "" when it names each of them once."""
    if len(order) != words:
        return f"{len(order)} entries for {words} words"
    seen = bytearray(words)
    for slot, word in enumerate(order):
        # bool is a subclass of int, and 1.0 == 1: neither is a word number.
        if type(word) is not int:
            return f"entry {slot} is a {type(word).__name__}, not an integer"
        if not 0 <= word < words:
            shown = str(word) if abs(word) < 10**18 else "a number of more than 18 digits"
            return f"entry {slot} is {shown}; words are 0 to {words - 1}"
        if seen[word]:
            return f"word {word} is there twice"
        seen[word] = 1
    return ""


def relayed(order: Sequence[int] | Integers, place: Integers) -> Integers:
    """The cells where the words lie after `order`, given the cells `place[w]` where they lie now; nothing is moved.

    Raises `PoolInputError` when the order is not one of these words.
    """
    plain = order.tolist() if isinstance(order, np.ndarray) else order
    wrong = check_order(plain, len(place))
    if wrong:
        raise PoolInputError(f"a layout's order: {wrong}; name each word once")
    after = np.empty_like(place)
    after[np.array(plain, dtype=np.int64)] = np.sort(place)
    return after


def apply_layout(
    cells: Integers, place: Integers, order: Sequence[int] | Integers, payload_cells: int, seat: int = -1
) -> int:
    """Move the words of a pool as `order` says, and bring `place` (the cell of each word's header) up to date in it.

    A word takes along its heat, stamp, tier and the first `payload_cells` cells of its payload. The words' blocks must
    be of one size and one owner, and must not be in the middle of a write. Returns how many pairs of words changed
    places. Raises `PoolInputError`, with nothing moved, when something of this does not hold.

    `seat` is the caller's: its journal keeps the two words that are changing places, so that whoever recovers the pool
    from the caller's death finds each word whole. -1 is for memory that nobody recovers.
    """
    after = relayed(order, place)
    if len(place) == 0:
        return 0
    _check_blocks(cells, place, payload_cells)
    if seat >= 0 and payload_cells > LONGEST_SWAP_CELLS:
        raise PoolInputError(
            f"words of {payload_cells} cells of payload change places; a seat's journal keeps {LONGEST_SWAP_CELLS}"
        )
    slots = np.sort(place)
    held_by = np.argsort(place, kind="stable")
    slot_of = np.empty_like(place)
    slot_of[held_by] = np.arange(len(place))
    return int(move_words(cells, slots, np.argsort(after, kind="stable"), held_by, slot_of, place, payload_cells, seat))


def _check_blocks(cells: Integers, place: Integers, payload_cells: int) -> None:
    slots = np.sort(place)
    gap = UNIT_CELLS + payload_cells
    if payload_cells < 0 or slots[0] < 0 or slots[-1] > len(cells) - gap or (np.diff(slots) < gap).any():
        raise PoolInputError(
            f"{len(place)} words with {payload_cells} cells of payload in cells {slots[0]} to {slots[-1]} overlap, or "
            f"lie outside of the pool's {len(cells)} cells; give the cells of the words' own headers"
        )
    sizes = cells[place + H_SIZE] >> 2
    owners = cells[place + H_OWNER]
    if (sizes != sizes[0]).any() or (owners != owners[0]).any() or sizes[0] < payload_cells * 8:
        raise PoolInputError(
            f"the words' blocks hold {sizes.min()} to {sizes.max()} bytes and belong to owners {owners.min()} to "
            f"{owners.max()}; words change places only among blocks of one owner and of one size, of "
            f"{payload_cells * 8} bytes or more"
        )
    if (cells[place + H_SEQUENCE] & 1).any():
        raise PoolInputError("a word's block is being written; end the write before the words change places")


@kernel
def move_words(
    cells: Integers,
    slots: Integers,
    order: Integers,
    held_by: Integers,
    slot_of: Integers,
    place: Integers,
    payload_cells: int,
    seat: int,
) -> int:
    """Swap words until slot i (header at cell `slots[i]`) holds word `order[i]`; the number of swaps.

    `held_by[i]` is the word in slot i and `slot_of[w]` the slot of word w; both, and `place`, are kept up to date with
    each swap. `order` names each word once, so that a slot once filled is never touched again.
    """
    swaps = 0
    for i in range(len(slots)):
        word = order[i]
        j = slot_of[word]
        if j != i:
            other = held_by[i]
            swap_blocks(cells, slots[i], slots[j], payload_cells, seat)
            held_by[i] = word
            held_by[j] = other
            slot_of[word] = i
            slot_of[other] = j
            place[word] = slots[i]
            place[other] = slots[j]
            swaps += 1
    return swaps


@kernel
def swap_blocks(cells: Integers, a: int, b: int, payload_cells: int, seat: int) -> None:
    """Exchange heat, stamp, tier and `payload_cells` cells of payload between the blocks with headers at `a` and `b`.

    The sequences are odd meanwhile, so that a reader in another process looks again instead of seeing half of each.
    A sequence of 0 stays: what was never committed is not committed by being moved. The journal of `seat` (-1: none)
    keeps both blocks meanwhile.
    """
    if seat >= 0:
        begin_swap(cells, seat, a, b, payload_cells)
    sequence_a = cells[a + H_SEQUENCE]
    sequence_b = cells[b + H_SEQUENCE]
    if payload_cells > 0:
        cells[a + H_SEQUENCE] = sequence_a + int(sequence_a > 0)
        cells[b + H_SEQUENCE] = sequence_b + int(sequence_b > 0)
        fence()
        for i in range(payload_cells):
            kept = cells[a + UNIT_CELLS + i]
            cells[a + UNIT_CELLS + i] = cells[b + UNIT_CELLS + i]
            cells[b + UNIT_CELLS + i] = kept
        fence()
        cells[a + H_SEQUENCE] = sequence_a + 2 * int(sequence_a > 0)
        cells[b + H_SEQUENCE] = sequence_b + 2 * int(sequence_b > 0)
    heat = cells[a + H_HEAT]
    cells[a + H_HEAT] = cells[b + H_HEAT]
    cells[b + H_HEAT] = heat
    stamp = cells[a + H_STAMP]
    cells[a + H_STAMP] = cells[b + H_STAMP]
    cells[b + H_STAMP] = stamp
    # The header's checksum is over the size without the tier.
    size_a = cells[a + H_SIZE]
    size_b = cells[b + H_SIZE]
    cells[a + H_SIZE] = size_a - (size_a & 3) + (size_b & 3)
    cells[b + H_SIZE] = size_b - (size_b & 3) + (size_a & 3)
    if seat >= 0:
        end_swap(cells, seat)
