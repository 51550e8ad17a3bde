"""The command ``skclipsvd demo``, where it is called as ``python -m skclipsvd.demo``."""

import sys

from .commands import main

if __name__ == "__main__":
    sys.exit(main(["demo", *sys.argv[1:]]))
