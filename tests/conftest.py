"""What all tests share: the Hypothesis profile and the number of threads, set before any test is read."""

from __future__ import annotations

import os

from tests import profiles

# More OpenMP threads than cores, as when tests run side by side, make FAISS several times slower on small
# indexes. A test of what threads do sets their number itself.
os.environ.setdefault("OMP_NUM_THREADS", "1")

profiles.load()
