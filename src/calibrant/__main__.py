"""`python -m calibrant`: the command line where the command itself is not on the path."""

import sys

from calibrant.cli import main

sys.exit(main())
