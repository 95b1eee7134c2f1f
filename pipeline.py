"""Expost: train a VAE, encode the training set, fit a prior to what was encoded, and see what that bought.

    python pipeline.py [stage=STAGE] [GROUP=CHOICE ...] [KEY=VALUE ...]

The pipeline itself is `expost/pipeline.py`, which reads as it runs; `docs/architecture.md` is the map.
"""

import sys

from expost.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
