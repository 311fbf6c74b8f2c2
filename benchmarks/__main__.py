"""`python -m benchmarks COMMAND`: threads are fixed before anything that starts some is imported."""

from __future__ import annotations

import sys

from benchmarks.cli import main, parsed
from benchmarks.threads import limit_threads

if __name__ == "__main__":
    limit_threads(getattr(parsed(sys.argv[1:]), "threads", 1))
    sys.exit(main(sys.argv[1:]))
