"""The log for people, `run.log`: everything, with repeated messages said once and counted."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class SayOnce(logging.Filter):
    """Lets a message through once; `repeats` counts how often the same one came again."""

    def __init__(self) -> None:
        super().__init__()
        self.repeats: dict[str, int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """True the first time that this text comes."""
        text = record.getMessage()
        self.repeats[text] = self.repeats.get(text, -1) + 1
        return self.repeats[text] == 0


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Write every message of the logger `twin` to `path` while the run lasts, and its repeats at the end."""
    logger = logging.getLogger("twin")
    once = SayOnce()
    file = logging.FileHandler(path, encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addFilter(once)
    logger.addHandler(file)
    try:
        yield
    finally:
        logger.removeFilter(once)
        for text, count in once.repeats.items():
            if count:
                logger.warning("%d more times: %s", count, text)
        logger.removeHandler(file)
        # What a full disk did not take is tried once more here; the run does not fail for its log.
        with contextlib.suppress(OSError):
            file.close()
