"""Calibration: the world's own parameters from recordings of a real machine, and how far they can be trusted."""
