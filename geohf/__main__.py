"""`python -m geohf` is the command `geohf`."""

import sys

from geohf_cli import main

if __name__ == "__main__":
    sys.exit(main())
