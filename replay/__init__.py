"""asof's time side: the state at any instant, and the ways back to it."""

from replay.diff import Change, Diff, diff
from replay.rebuild import Progress, Rebuildable, rebuild
from replay.recover import recover
from replay.report import Fault, FaultKind, Report
from replay.restore import Restored, restore
from replay.state import State, state
from replay.verify import Checkable, verify

__all__ = [
    "Change",
    "Checkable",
    "Diff",
    "Fault",
    "FaultKind",
    "Progress",
    "Rebuildable",
    "Report",
    "Restored",
    "State",
    "diff",
    "rebuild",
    "recover",
    "restore",
    "state",
    "verify",
]
