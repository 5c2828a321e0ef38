"""``python -m pdx``, which is what torchrun starts."""

import sys

from pdx.cli import main

if __name__ == "__main__":
    sys.exit(main())
