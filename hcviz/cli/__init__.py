"""The command line: the commands by name, and errors in one clear line."""

import contextlib
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import tyro
from tyro.conf import Positional

from hcviz.cli.claims import dry_run, reproduce
from hcviz.cli.models import clone, declone, deepen, families, verify
from hcviz.cli.runs import demo, figures, train
from hcviz.cli.views import audit, diff, evaluate, measure, plot
from hcviz.errors import HcvizError


def lab(
    notebook: Positional[str] = "00_tour.ipynb", /, app: bool = False, browser: bool = True
) -> int:
    """Open JupyterLab on a notebook.

    Args:
        notebook: A file in notebooks/, or any path.
        app: Open it with Voila: no code, only text, figures and sliders, for a class.
        browser: Open a browser window.
    """
    shipped = Path(__file__).parents[2] / "notebooks" / notebook
    path = shipped if os.path.isfile(shipped) else Path(notebook)
    if not os.path.isfile(path):
        raise HcvizError(
            f"There is no notebook {notebook!r}, neither here nor in {shipped.parent}."
        )
    if app and not find_spec("voila"):
        raise HcvizError(
            "hcviz lab --app needs Voila, which is not installed. In a clone of the repository: "
            "pip install -c constraints.txt -e '.[app]'"
        )
    command = [sys.executable, "-m", "voila" if app else "jupyterlab", str(path)]
    command += ["--template=hcviz"] if app else []
    command += [] if browser else ["--no-browser"]
    places = [str(Path(__file__).parent / "app"), os.environ.get("JUPYTER_PATH", "")]
    env = {**os.environ, "JUPYTER_PATH": os.pathsep.join(filter(None, places))}
    return subprocess.call(command, env=env)


COMMANDS = {
    "demo": demo,
    "clone": clone,
    "verify": verify,
    "declone": declone,
    "deepen": deepen,
    "train": train,
    "measure": measure,
    "evaluate": evaluate,
    "plot": plot,
    "diff": diff,
    "audit": audit,
    "figures": figures,
    "reproduce": reproduce,
    "dry-run": dry_run,
    "families": families,
    "lab": lab,
}


def main() -> None:
    """Run the command that the arguments name; bad input ends with code 2 and one clear line."""
    # torch then asks Linux for huge pages, which makes filling new tensors up to four times faster
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    with contextlib.suppress(AttributeError):  # not a stream of the system's
        sys.stdout.reconfigure(errors="backslashreplace")  # a folder's name may be no text
    try:
        code = tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="hcviz",
            description="Widen a language model by HyperCloning, train it, see what its copies do.",
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    except HcvizError as error:
        print(f"hcviz: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("hcviz: interrupted; what was finished is kept.", file=sys.stderr)
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
