"""Time of one move of the slider in explore(), from the new step to the picture and hover sent.

    python benchmarks/explore.py --runs 5

The recorded demo, three arms side by side, every step in turn. First visits read the weights and
decompose them; later ones find both in memory. CPU time is what the move costs on an idle core;
wall time also has what else runs.
"""

import argparse
import time
from pathlib import Path

from tables import facts, show

import hcviz


def moves(view) -> tuple[list[float], list[float]]:
    """Move through all steps and return wall and CPU milliseconds of each."""
    wall, cpu = [], []
    for step in view.canvas.steps:
        start, busy = time.perf_counter(), time.process_time()
        view.slider.value = step
        wall.append(1e3 * (time.perf_counter() - start))
        cpu.append(1e3 * (time.process_time() - busy))
    return wall, cpu


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    view = hcviz.explore(hcviz.recorded("demo").runs)
    view.slider.value = view.canvas.steps[0]
    first, later = moves(view), ([], [])
    for _ in range(options.runs):
        for kept, found in zip(later, moves(view), strict=True):
            kept.extend(found[1:])  # the first is a long way back
    table = {"arms": len(view.shown), "steps": len(view.canvas.steps)}
    table |= {"first_wall_ms": first[0][1:], "first_cpu_ms": first[1][1:]}
    table |= {"later_wall_ms": later[0], "later_cpu_ms": later[1]}
    table |= {
        "picture_kb": len(view.picture.value) / 1e3,
        "hover_kb": len(view.overlay.drawing) / 1e3,
    }
    show({**table, **facts()}, options.out)


if __name__ == "__main__":
    main()
