"""Fingerprints: what a run was like, in figures that can be compared between runs, configurations and machines."""
