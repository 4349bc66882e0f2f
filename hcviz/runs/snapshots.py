"""Where a run's snapshots lie: below its folder, anywhere, or as revisions on the hub."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hcviz.errors import HcvizError
from hcviz.io.checkpoint import Stored, stamp, weight_files
from hcviz.runs.places import Place, Revision
from hcviz.runs.state import LOG, read_log


class Snapshots:
    """The snapshots of a run by step. Nothing is downloaded before it is asked for.

    Args:
        path: The run's folder of ``checkpoint-N``; None where there is none.
        places: Where they lie instead, by step.
    """

    def __init__(self, path: Path | None, places: Mapping[int, Place] | None):
        """Take the places; nothing is read yet."""
        self.path, self.places = path, places
        self._read: dict[int, Stored] = {}
        self._fetched: dict[int, Path] = {}

    def steps(self) -> list[int]:
        """Return the steps that have a snapshot, in order."""
        if self.places is not None:
            return list(self.places)
        names = (place.name.removeprefix("checkpoint-") for place in self.path.glob("checkpoint-*"))
        return sorted(int(name) for name in names if name.isdigit() and int(name) in self)

    def __contains__(self, step: int) -> bool:
        """Tell whether there is a snapshot of a step, without a look at the others."""
        if self.places is not None:
            return step in self.places
        return bool(weight_files(self.folder(step)))

    def folder(self, step: int) -> Path:
        """Return the folder of a snapshot; a revision of the hub is fetched whole."""
        if self.places is None:
            return self.path / f"checkpoint-{step}"
        if not self.is_revision(step):
            return self.places[step]
        if step not in self._fetched:
            self._fetched[step] = self.places[step].fetch()
        return self._fetched[step]

    def file(self, step: int, name: str) -> Path | None:
        """Return one file of a snapshot; of a revision of the hub nothing else is fetched."""
        if self.is_revision(step):
            return self.places[step].file(name)
        return self.folder(step) / name

    def is_revision(self, step: int) -> bool:
        """Tell whether a snapshot is a revision on the hub, whose files never change."""
        return isinstance((self.places or {}).get(step), Revision)

    def is_here(self, step: int) -> bool:
        """Tell whether a snapshot is on this machine, so that looking at it downloads nothing."""
        return step in self._fetched or not self.is_revision(step)

    def stored(self, step: int) -> Stored:
        """Return what a snapshot's files hold, looked at again where they have changed."""
        folder, known = self.folder(step), self._read.get(step)
        if known is None or known.stamp != stamp(folder):
            known = self._read[step] = Stored(folder)
        return known

    def log(self) -> list[dict[str, Any]]:
        """Return the Trainer's log, from the run's own state or the newest checkpoint's.

        Of revisions of the hub the newest is asked, whose log is the longest, and no other. That of
        the newest checkpoint may be half written, or cut where a run was killed.

        Raises:
            HcvizError: If another one cannot be read.
        """
        *older, newest = self.steps()
        asked = [newest, *(step for step in reversed(older) if not self.is_revision(step))]
        own = [self.path / LOG] if self.path else []
        logs, files = [], [self.file(step, LOG) for step in asked]
        for path in filter(None, [*own, *files]):
            with contextlib.suppress(HcvizError if path == files[0] else ()):
                logs.append(read_log(path))
        return max(logs, key=lambda log: log[-1]["step"] if log else -1, default=[])
