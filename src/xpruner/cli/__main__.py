"""``python -m xpruner.cli`` is ``xpruner``."""

import sys

from xpruner.cli import main

if __name__ == "__main__":
    sys.exit(main())
