"""The words that a simulated program executes: phrases, each a fixed sequence of words.

A program is no shuffle: it runs sequences, some often and most seldom. Word number d of a run is word d % L of the
phrase that is drawn for d // L. Phrases and the words in them are drawn by counter, so that any part of the stream can
be had without what comes before it.
"""

from __future__ import annotations

from twin.kernels import Integers, draw32, kernel

PHRASE_BITS = 3
PHRASE_WORDS = 1 << PHRASE_BITS
WORDS_A_PHRASE = 4
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
