"""What the benchmarks share: a table with medians and spread, and the surroundings of a run."""

import json
import platform
import shlex
import statistics
import sys
import time
from pathlib import Path

import psutil

from hcviz.io.process import surroundings


def facts() -> dict:
    """Return what a number depends on: command, versions, machine, load and date."""
    return {
        "command": shlex.join(["python", "benchmarks/" + Path(sys.argv[0]).name, *sys.argv[1:]]),
        "versions": surroundings()["versions"],
        "machine": f"{platform.machine()}, {psutil.cpu_count()} cores, "
        f"{psutil.virtual_memory().total / 1e9:.0f} GB",
        "load_average": psutil.getloadavg(),
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }


def peak() -> int:
    """Return the most memory that this process has had, in bytes.

    Linux gives a child the peak of its parent in ``ru_maxrss``, so there it is read elsewhere.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS counts bytes


def show(result: dict, out: Path | None) -> None:
    """Print a result, lists as median and spread, and write it as JSON if asked to."""
    for name, value in result.items():
        if isinstance(value, list) and value:
            middle = statistics.median(value)
            value = f"{middle:.3g}  ({min(value):.3g} to {max(value):.3g}, {len(value)} runs)"
        elif isinstance(value, float):
            value = f"{value:.3g}"
        print(f"{name:>16}  {value}")
    if out:
        out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
