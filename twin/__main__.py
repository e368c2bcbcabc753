"""`python -m twin` does what the command `twin` does."""

import sys

from twin.cli import main

sys.exit(main())
