"""Experiments: a plan of many runs, the processes that do them, and the directory that keeps them."""
