"""python -m simu.cache: see `simu.cli.cache`."""

import sys

from simu.cli.cache import main

if __name__ == "__main__":
    sys.exit(main())
