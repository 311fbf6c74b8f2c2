"""The `replay` command: one file per command, each a thin layer over the library."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run the command line in `sys.argv` and exit: 0 fine, 1 a check found something, 2 wrong usage, 3 failed."""
    try:
        from replay.cli.app import replay
    except KeyboardInterrupt:  # it takes half a second; nothing has begun
        raise SystemExit(130) from None

    replay(prog_name="replay")
