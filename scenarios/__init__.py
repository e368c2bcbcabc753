"""The scenarios that ship with pulsetwin, as TOML files with their golden digests beside them."""
