"""The heartbeat: a tick whose interval answers the load, and the words executed between two ticks."""
