"""What a run leaves behind: the seam log, the tick and control tables, their digests, and the directory they lie in.

Nothing here knows a clock, a world or a backend. Every file is either whole or not there (`files`), except the seam
log, which grows record by record and can be read up to the last whole record at any time (`seamlog`).
"""
