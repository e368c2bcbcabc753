"""Crystal Core: one shared mapping that holds blocks, and that survives the death of any process that uses it."""
