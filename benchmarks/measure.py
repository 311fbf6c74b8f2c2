"""Time things in turn: every figure is a median of rounds in which each contender ran once."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Contender", "Race", "race"]


@dataclass(frozen=True)
class Contender:
    """Something to time. `before` and `after`, which gets what `work` gave, run around each round and are not timed."""

    name: str
    work: Callable[[], Any]
    before: Callable[[], Any] | None = None
    after: Callable[[Any], Any] | None = None

    def run(self) -> tuple[float, float]:
        """Seconds by the clock and of the processors."""
        if self.before is not None:
            self.before()
        gc.collect()
        cpu, start = time.process_time(), time.perf_counter()
        result = self.work()
        took, used = time.perf_counter() - start, time.process_time() - cpu
        if self.after is not None:
            self.after(result)
        return took, used


@dataclass
class Race:
    """The seconds of each round that counts, by contender; and who was too slow to be asked again."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    cores: dict[str, float] = field(default_factory=dict)
    once: set[str] = field(default_factory=set)

    def median(self, name: str) -> float:
        """The median of a contender's seconds."""
        return statistics.median(self.seconds[name])

    def ratios(self, name: str, other: str) -> list[float]:
        """`name`'s time divided by `other`'s, round by round; by the medians where one ran only once."""
        if self.once & {name, other}:
            return [self.median(name) / self.median(other)]
        return [a / b for a, b in zip(self.seconds[name], self.seconds[other], strict=True)]


def race(contenders: Sequence[Contender], rounds: int, patience: float = float("inf")) -> Race:
    """Run all in turn, `rounds` times after one round that does not count, each round beginning with another.

    A contender whose first round takes longer than `patience` seconds is not asked again: that round is its result.
    """
    result, running, used = Race(), list(contenders), dict[str, list[float]]()
    for number in range(rounds + 1):
        turn = number % len(running)
        for contender in running[turn:] + running[:turn]:
            took, cpu = contender.run()
            if number == 0 and took <= patience:
                continue
            if number == 0:
                result.once.add(contender.name)
            result.seconds.setdefault(contender.name, []).append(took)
            used.setdefault(contender.name, []).append(cpu / took if took else 0.0)
        if number == 0:
            running = [contender for contender in running if contender.name not in result.once]
            if not running:
                break
    result.cores = {name: round(statistics.median(shares), 2) for name, shares in used.items()}
    return result
