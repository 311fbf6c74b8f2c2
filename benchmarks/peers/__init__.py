"""What a user would pick instead, each driven embedded, on disk, through its own batch interface."""

from benchmarks.peers.peer import Missing, Peer
from benchmarks.peers.registry import NAMES, available, make

__all__ = ["NAMES", "Missing", "Peer", "available", "make"]
