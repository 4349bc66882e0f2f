"""A client of notebooks that overlooks no reply, and a trial of it with many cells.

On a ZeroMQ socket one signal says that its events have changed, and whoever sends takes that signal
too. jupyter_client sends past the asyncio socket, which then never hears of a reply that came in
the meantime: the cell waits for its time limit. An Output widget sends while its cell runs.

python notebooks/client.py --cells 3000
"""

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import nbformat
import zmq
import zmq.asyncio
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.session import Session
from nbclient import NotebookClient
from traitlets import default

A_KERNEL = 300
"""Cells of the trial that run in one kernel."""
LIMIT = 5
"""Seconds after which a cell of the trial, which takes a few hundredths of one, has stalled."""
FIRST = "import ipywidgets\n\nout = ipywidgets.Output()\nout"
CELL = "out.clear_output()\nwith out:\n    for number in range(8):\n        display(number)"


class Attentive(Session):
    """A session that looks at the events of an asyncio socket after each send."""

    def send(self, stream: Any, *args: Any, **kwargs: Any) -> dict[str, Any] | None:
        """Send a message; what came in meanwhile is given to whoever waits for it."""
        sent = super().send(stream, *args, **kwargs)
        if isinstance(stream, zmq.asyncio.Socket):
            stream.get(zmq.EVENTS)  # an asyncio socket that is asked schedules what it finds
        return sent


class Manager(AsyncKernelManager):
    """A kernel's manager whose clients are attentive."""

    @default("session")
    def _attentive(self) -> Session:
        return Attentive(parent=self)


class Client(NotebookClient):
    """NotebookClient, with every reply seen when it comes."""

    @default("kernel_manager_class")
    def _manager(self) -> type[AsyncKernelManager]:
        return Manager


def trial(cells: int, make: Callable[..., NotebookClient] = Client) -> int:
    """Run cells in which an Output widget sends, and return how many waited for the limit.

    Args:
        cells: How many to run.
        make: The class of the client.
    """
    begun, taken = 0.0, []

    def begin(**_: Any) -> None:
        nonlocal begun
        begun = time.monotonic()

    def end(**_: Any) -> None:
        taken.append(time.monotonic() - begun)

    for start in range(0, cells, A_KERNEL):
        sources = [FIRST] + [CELL] * (min(A_KERNEL, cells - start) - 1)
        notebook = nbformat.v4.new_notebook(cells=[*map(nbformat.v4.new_code_cell, sources)])
        client = make(notebook, timeout=LIMIT, kernel_name="python3")
        client.on_cell_execute, client.on_cell_executed = begin, end
        client.execute()
    return sum(one >= LIMIT for one in taken)


def main(words: Sequence[str] | None = None) -> int:
    """Run the trial, print what came of it, and return 1 if a cell stalled."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=3000, help="how many cells to run")
    parser.add_argument("--plain", action="store_true", help="with nbclient's own client")
    options = parser.parse_args(words)
    begun = time.monotonic()
    stalls = trial(options.cells, NotebookClient if options.plain else Client)
    seconds = time.monotonic() - begun
    print(f"{options.cells} cells, {stalls} stalls, {seconds:.0f} s")
    return int(stalls > 0)


if __name__ == "__main__":
    raise SystemExit(main())
