"""`python run.py …` is `drift run …`, for a clone in which nothing is installed."""

import sys

from drift.run import main

if __name__ == "__main__":
    main(sys.argv[1:])
