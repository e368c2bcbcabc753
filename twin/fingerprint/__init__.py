"""Fingerprints of runs and configurations, and the golden choice."""
