"""`python -m llamaprobe` is the command `llamaprobe`."""

import sys

from .cli.main import main

if __name__ == "__main__":
    sys.exit(main())
