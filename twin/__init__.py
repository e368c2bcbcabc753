"""A simulation-first digital twin: one controller, a simulated machine and a real one, the same bits."""

__version__ = "0.1.0"
