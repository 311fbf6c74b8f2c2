"""Appends of several threads that wait for the same disk share one sync.

Whoever comes first leads: it waits a moment for those whom the last group had, commits for all who are there by then,
wakes them, and wakes the first of those who came meanwhile to lead next. Each is still an append of its own: its own
instant, and its own error, which leaves the rest of the group alone. Ctrl-C may come between any two steps: whoever
waits looks now and then whether anybody leads.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field

from eventstore.append import Recorded
from eventstore.errors import AsofError, StorageError
from eventstore.operations import Prepared

__all__ = ["AppendGroup", "Job"]

_MOST_EVENTS = 10_000
# Who waits looks again after so many seconds, should the one who was to wake it have been interrupted.
_LOOK_AGAIN = 0.05
# Seconds in which somebody has to come for a leader to wait on: a fraction of what a sync takes.
_PAUSE = 0.0001


def _locked() -> threading.Lock:
    # A plain lock: what `threading` makes of them in Python stays locked where Ctrl-C comes at the wrong moment.
    lock = threading.Lock()
    lock.acquire()
    return lock


@dataclass(slots=True, eq=False)
class Job:
    """One append: what is asked, and then either the events or the error.

    Its thread waits for `woken` and then finds the job `done`, or nobody who leads; `given_up` once it has gone.
    """

    operations: Sequence[Prepared]
    expected_position: int | None
    recorded: list[Recorded] | None = None
    error: AsofError | None = None
    done: bool = False
    given_up: bool = False
    woken: threading.Lock = field(default_factory=_locked)

    def wake(self) -> None:
        """Let its thread go on."""
        with contextlib.suppress(RuntimeError):  # somebody else has woken it
            self.woken.release()


class AppendGroup:
    """Gathers jobs while one group is being committed; `commit` fills in each job's events or error.

    `is_committed` says whether those events are in the history: asked after an interrupt, which can come when the
    commit is done already.
    """

    def __init__(
        self, commit: Callable[[list[Job]], None], is_committed: Callable[[list[Job]], bool] = lambda jobs: False
    ) -> None:
        self._commit = commit
        self._is_committed = is_committed
        self._waiting: list[Job] = []
        self._leader: Job | None = None
        self._last = 1  # how many jobs the last group had
        self._gate = threading.Lock()

    def run(self, job: Job) -> list[Recorded]:
        """Have the job committed, by this thread or by one before it; return its events or raise its error."""
        try:
            with self._gate:
                self._waiting.append(job)
            while not job.done:
                self._lead_if_nobody_does(job)
                if self._leader is not job:
                    job.woken.acquire(timeout=_LOOK_AGAIN)
                elif not job.done:
                    self._lead(job)
        finally:
            # First: whatever else an interrupt keeps from being done, others see that this one leads no more.
            job.given_up = True
            self._leave(job)
        if job.error is not None:
            raise job.error
        assert job.recorded is not None
        return job.recorded

    def _lead(self, own: Job) -> None:
        self._gather()
        jobs = self._take(own)
        self._last = len(jobs)
        try:
            self._settle(jobs, own)
        finally:
            for job in jobs:
                if job.done and job is not own:
                    job.wake()

    def _gather(self) -> None:
        """Wait for as many as the last group had, as long as some come: they are likely to be about to come again.

        Without that those who append again and again fall into two groups, which pay for two syncs and get in each
        other's way: the one has just been woken while the other is being committed.
        """
        waiting = 0
        while waiting < len(self._waiting) < self._last:
            waiting = len(self._waiting)
            time.sleep(_PAUSE)

    def _lead_if_nobody_does(self, job: Job) -> None:
        with self._gate:
            if self._leader is None or self._leader.given_up:
                self._leader = job
                if job not in self._waiting and not job.done:
                    # A leader that was interrupted had taken it. What it committed it may not have said.
                    job.done = job.recorded is not None and self._is_committed([job])
                    if not job.done:
                        job.recorded = job.error = None
                        self._waiting.append(job)

    def _leave(self, job: Job) -> None:
        with self._gate:
            # Interrupted while waiting: nobody else shall record what this caller will not hear of.
            if job in self._waiting:
                self._waiting.remove(job)
            if self._leader is not job:
                return
            self._leader = None
            following = self._waiting[0] if self._waiting else None
        if following is not None:
            following.wake()

    def _settle(self, jobs: list[Job], own: Job) -> None:
        try:
            self._commit(jobs)
            for job in jobs:
                job.done = True
        except AsofError as error:
            for job in jobs:
                job.recorded = job.error = None
            if len(jobs) > 1 and not isinstance(error, StorageError):
                # One of them is to blame and the others are not: each by itself.
                for job in jobs:
                    self._settle([job], own)
                return
            # Nothing of the group was acknowledged: the same is true for everyone in it.
            _fail(jobs, own, error)
        except BaseException:
            # This thread was interrupted, the others were not: the next of them leads.
            committed = False
            try:
                committed = self._is_committed(jobs)
            except AsofError as error:
                # It may be there, so it must not be written again. The error has the interrupt for its context, whose
                # traceback holds what the commit holds: kept as it is, that would be held until garbage is collected.
                _fail(jobs, None, error)
            if committed:
                for job in jobs:
                    job.done = True
                raise
            with self._gate:
                again = [job for job in jobs if not (job.done or job.given_up)]
                for job in again:
                    job.recorded = job.error = None
                self._waiting[:0] = [job for job in again if job is not own]
            raise

    def _take(self, own: Job) -> list[Job]:
        """The own job and those before and behind it, in their order, as long as the transaction stays moderate."""
        with self._gate:
            events, taken = len(own.operations), []
            for job in self._waiting:
                if job is own:
                    taken.append(job)
                elif events <= _MOST_EVENTS:
                    taken.append(job)
                    events += len(job.operations)
            if own not in taken:
                taken.append(own)
            self._waiting = [job for job in self._waiting if job not in taken]
        return taken


def _fail(jobs: list[Job], own: Job | None, error: AsofError) -> None:
    """Give each of the jobs an error of its own: an error that several threads raise gets all their tracebacks."""
    for job in jobs:
        job.recorded = None
        job.error = error if job is own else copy(error)
        job.error.__cause__ = error.__cause__
        job.done = True
