"""The program itself is in `run`: a spawned process cannot import a `__main__`."""

import sys

from benchmarks.long_video.run import main

if __name__ == "__main__":
    sys.exit(main())
