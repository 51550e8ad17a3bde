"""The command, where it is called as ``python -m skclipsvd``."""

import sys

from .commands import main

if __name__ == "__main__":
    sys.exit(main())
