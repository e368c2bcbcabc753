"""A simulation-first digital twin: one controller, a simulated machine and a real one, the same bits."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from twin.api import Experiment as Experiment
    from twin.api import Run as Run
    from twin.api import run as run

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """The Python interface is imported when it is asked for: the command line must start at once."""
    if name in ("run", "Run", "Experiment"):
        from twin import api

        return getattr(api, name)
    raise AttributeError(f"module 'twin' has no attribute {name!r}")
