"""Adapters on the machine's side of the seam. Nothing here imports `twin`."""
