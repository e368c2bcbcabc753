"""Profiles: `ci` (the default) is derandomised and without deadlines, `nightly` draws more and at random."""

import compileall
import os
from pathlib import Path

from hypothesis import HealthCheck, settings

# Python keeps what it compiles at a first import. Where a test limits the size of files, or fails writes, it would keep
# a part, with which every process after it fails; so everything is compiled before.
for room in ("twin", "hardware", "scenarios", "tests"):
    compileall.compile_dir(Path(__file__).parent.parent / room, quiet=2)

settings.register_profile(
    "ci",
    derandomize=True,
    deadline=None,
    max_examples=60,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "nightly", deadline=None, max_examples=2_000, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
