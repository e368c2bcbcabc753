"""The page: what the machine does, why, and what the twin expects, in a browser."""
