"""asof's time side: the state at any instant, and the ways back to it."""

from replay.diff import Change, Diff, diff
from replay.rebuild import Progress, Rebuildable, rebuild
from replay.recover import recover
from replay.report import Fault, FaultKind, Report
from replay.restore import Restored, restore
from replay.salvage import salvage
from replay.salvaged import Gap, GapKind, MemoryGap, Moved, SalvageReport
from replay.state import State, state
from replay.verify import Checkable, verify

__all__ = [
    "Change",
    "Checkable",
    "Diff",
    "Fault",
    "FaultKind",
    "Gap",
    "GapKind",
    "MemoryGap",
    "Moved",
    "Progress",
    "Rebuildable",
    "Report",
    "Restored",
    "SalvageReport",
    "State",
    "diff",
    "rebuild",
    "recover",
    "restore",
    "salvage",
    "state",
    "verify",
]
