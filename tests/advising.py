"""Asking an advisor in tests: the facts, the question to its end, and what became of it."""

from __future__ import annotations

import threading

import numpy as np

from twin.pool.advisor import WordFacts

PATIENT_MS = 20_000
HASTY_MS = 300


def facts(words: int = 4) -> WordFacts:
    count = np.arange(words, dtype=np.int64)
    return WordFacts(heat_q48=count << 16, tier=count * 0 + 1, slot=count, block_bytes=64)


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "layout advisor"]


def finish(advisor) -> None:
    """Wait until the question under way has come to its end."""
    for thread in threads():
        thread.join(30)
        assert not thread.is_alive()


def ask(advisor, words: int = 4):
    advisor.ask(7, facts(words))
    finish(advisor)
    return advisor.answer(8)


def outcome(advisor) -> str:
    counts = advisor.counts
    assert counts.asked == counts.good + counts.bad + counts.late + counts.failed == 1
    return next(name for name in ("good", "bad", "late", "failed") if getattr(counts, name))
