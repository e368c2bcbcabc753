"""Which profile of tests runs (conftest.py has them)."""

import os

NIGHTLY = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"
"""Everything, for hours; otherwise a part of it, for minutes."""
