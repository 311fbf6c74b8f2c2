"""Plots of how cost grows, as small SVG files that are the same for the same results."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.results import Result, Series

__all__ = ["MissingMatplotlib", "draw"]


class MissingMatplotlib(Exception):
    """matplotlib is not there."""


def draw(results: Sequence[Result], folder: Path) -> list[Path]:
    """One file for each plot that the results have lines for; `MissingMatplotlib` says how to get it."""
    plots: dict[str, list[Series]] = {}
    for result in results:
        for series in result.series:
            plots.setdefault(series.plot, []).append(series)
    if not plots:
        return []
    try:
        matplotlib: Any = importlib.import_module("matplotlib")
        figures: Any = importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise MissingMatplotlib(f"not installed ({error}): pip install 'asof[bench]'") from error
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    # Ids from a fixed salt, and no date: another run over the same results gives the same file.
    with matplotlib.rc_context({"svg.hashsalt": "asof", "svg.fonttype": "none"}):
        for name, lines in sorted(plots.items()):
            figure = figures.Figure(figsize=(6.4, 3.6), layout="constrained")
            axes = figure.add_subplot()
            for line in lines:
                xs, ys = zip(*line.points)
                axes.plot(xs, ys, marker="o", markersize=4, linewidth=1.2, label=line.line)
            if lines[0].log:
                axes.set_xscale("log")
                axes.set_yscale("log")
            axes.set_xlabel(lines[0].x_label)
            axes.set_ylabel(lines[0].y_label)
            axes.grid(True, which="major", linewidth=0.3)
            axes.legend(fontsize=8, frameon=False)
            paths.append(folder / f"{name}.svg")
            figure.savefig(paths[-1], format="svg", metadata={"Date": None, "Creator": "asof benchmarks"})
    return paths
