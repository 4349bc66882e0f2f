"""The scripts that lie beside what they make, outside the package, loaded by their path."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]


def load(path: str) -> ModuleType:
    """Load a script without running its main part.

    Args:
        path: Its path in the repository.
    """
    spec = spec_from_file_location(path.removesuffix(".py").replace("/", "_"), ROOT / path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
