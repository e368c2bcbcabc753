"""The words that a simulated program executes: phrases, each a fixed sequence of words.

A program is no shuffle: it runs sequences, some often and most seldom. Word number d of a run is word d % L of the
phrase that is drawn for d // L. Phrases and the words in them are drawn by counter, so that any part of the stream can
be had without what comes before it.
"""

from __future__ import annotations

import numpy as np

from twin.kernels import Integers, draw32, kernel

PHRASE_BITS = 3
PHRASE_WORDS = 1 << PHRASE_BITS
WORDS_A_PHRASE = 4
POSITIVE = (1 << 48) - 1
"""Anding an index with this changes nothing, and tells the compiler that it does not count from the end."""
_PHRASES_AT = 1 << 62
"""Counters from here on draw what phrases are made of; those below draw which phrase comes (a run is shorter)."""


@kernel
def favoured(draw: int, count: int) -> int:
    """A number in 0..count-1 (count up to 2^31) from a 32-bit draw; its square favours low numbers.

    Number 0 comes with probability 1 / sqrt(count), the last one with 1 / (2 * count).
    """
    uniform = draw >> 1
    return (((uniform * uniform) >> 31) * count) >> 31


@kernel
def choose(key0: int, key1: int, first_draw: int, words: int, chosen: Integers, start: int, count: int) -> None:
    """Fill `chosen[start : start + count]` with the words (0..words-1) of a run from word `first_draw` (0..2^62) on.

    There is a phrase for every `WORDS_A_PHRASE` words of the dictionary.

    Choosing many words before executing any of them lets the compiler choose several at once.
    """
    phrases = max(words // WORDS_A_PHRASE, 1)
    for i in range(count):
        number = first_draw + i
        phrase = favoured(draw32(key0, key1, number >> PHRASE_BITS), phrases)
        part = (phrase << PHRASE_BITS) | (number & (PHRASE_WORDS - 1))
        chosen[start + i] = favoured(draw32(key0, key1, _PHRASES_AT + part), words)


def phrase_book(key0: int, key1: int, words: int) -> Integers:
    """All phrases of a run, one after another: what `choose` draws again and again, drawn once, for `recite`."""
    book = np.zeros(max(words // WORDS_A_PHRASE, 1) * PHRASE_WORDS, dtype=np.int64)
    _fill(key0, key1, words, book)
    return book


@kernel
def _fill(key0: int, key1: int, words: int, book: Integers) -> None:
    for part in range(len(book)):
        book[part] = favoured(draw32(key0, key1, _PHRASES_AT + part), words)


@kernel
def recite(key0: int, key1: int, first_draw: int, book: Integers, chosen: Integers, start: int, count: int) -> None:
    """What `choose` does, out of a `phrase_book`: one draw a phrase instead of two a word."""
    phrases = len(book) >> PHRASE_BITS
    done = 0
    while done < count:
        number = first_draw + done
        at = (favoured(draw32(key0, key1, number >> PHRASE_BITS), phrases) << PHRASE_BITS) & POSITIVE
        part = number & (PHRASE_WORDS - 1)
        if part == 0 and count - done >= PHRASE_WORDS:
            # A whole phrase, which is almost always: the compiler knows its length.
            for i in range(PHRASE_WORDS):
                chosen[start + done + i] = book[at + i]
            done += PHRASE_WORDS
        else:
            length = min(PHRASE_WORDS - part, count - done)
            for i in range(length):
                chosen[start + done + i] = book[at + part + i]
            done += length
