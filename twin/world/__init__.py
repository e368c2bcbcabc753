"""The simulated machine: physics, work and faults in SimPy, ignorant of what controls it."""

from twin.world.trace import TraceError, TraceTable, load_trace
from twin.world.world import World

__all__ = ["TraceError", "TraceTable", "World", "load_trace"]
