"""`python -m unembed` is the command `unembed`."""

import sys

from unembed.cli import main

sys.exit(main())
