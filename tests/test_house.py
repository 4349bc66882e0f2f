"""The rules of the house that no linter knows: who may import whom, sizes, names, nothing local."""

import ast
import functools
import importlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import hcviz

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "hcviz"

# From the bottom up: a room imports only rooms before it.
ROOMS = """
    errors io text statistics plots architecture widening cloning runs metrics training views claims
    cli __main__
""".split()
CATALOGUES = ("metrics", "plots")  # a file for each family of metrics, for each figure
PUBLIC = """
    clone clone_checkpoint verify Report declone deepen layout lockstep_groups grow_optimizer load
    train MetricsCallback BreakerCallback Run measure evaluate speedup forgetting escape diff
    audit loss_slice widen_matrix
    measure_matrix explore watch run_arms grow recorded HcvizError CloneError plots
""".split()

# The places of one machine, and the hosts of package registries (a mirror must do as well).
LOCAL = re.compile(r"(?<![\w.>)}-])/(work|root|home|opt|tmp|mnt|srv|Users)/\w|\b[A-Z]:\\+Users\\")
HOSTS = re.compile(
    r"\bpypi\.org|pythonhosted\.org|anaconda\.org|download\.pytorch\.org|npmjs\.(org|com)"
)


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def tracked(*suffixes: str) -> list[Path]:
    """List the files under version control, or all that a plain copy of them holds."""
    if shutil.which("git") and (ROOT / ".git").exists():
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.split("\0")
        files = [ROOT / name for name in listed if name]
    else:
        files = [
            p for p in ROOT.rglob("*") if ".venv" not in p.parts and "__pycache__" not in p.parts
        ]
    return [p for p in files if p.is_file() and (not suffixes or p.suffix in suffixes)]


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


@functools.cache  # many rules ask it of the same files
def imports(source: str) -> list[str]:
    """Return the dotted name of everything a module imports, inside functions too."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


@functools.cache
def ours(source: str) -> set[str]:
    """Return the modules of hcviz that a source imports, as dotted names without the package."""
    found = set()
    for name in imports(source):
        parts = name.split(".")
        while len(parts) > 1 and parts[0] == "hcviz":
            if PACKAGE.joinpath(*parts[1:]).is_dir() or _file(parts[1:]).is_file():
                found.add(".".join(parts[1:]))
                break
            parts.pop()
    return found


def _file(parts: list[str]) -> Path:
    return PACKAGE.joinpath(*parts).with_suffix(".py")


def upward(name: str, source: str) -> list[str]:
    """Return the imports of a room that do not point down."""
    targets = sorted(ours(source))
    return [
        target
        for target in targets
        if (to := target.split(".")[0]) != name and ROOMS.index(to) >= ROOMS.index(name)
    ]


def graph() -> dict[str, set[str]]:
    """Return which module imports which, dotted; a room's own name stands for its __init__."""
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): ours(
            path.read_text(encoding="utf-8")
        )
        for path in modules()
        if path != PACKAGE / "__init__.py"  # it loads every room
    }


def fenced(text: str) -> str:
    return "\n".join(re.findall(r"^```[^\n]*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL))


def test_every_file_has_its_room_and_every_room_exists():
    assert {room(path) for path in modules()} - {"__init__"} == set(ROOMS)


@pytest.mark.parametrize("name", sorted(set(ROOMS) - {"errors", "__main__", *CATALOGUES}))
def test_a_room_is_seen_at_a_glance(name):
    files = {path.name for path in (PACKAGE / name).iterdir()} - {"__init__.py", "__pycache__"}
    files = {file for file in files if file.endswith(".py")}
    assert len(files) <= 8
    assert not any(file.startswith("_") for file in files), "a file that no other room may import"


@pytest.mark.parametrize(
    "path",
    [path for path in modules() if path != PACKAGE / "__init__.py"],  # it loads every room
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_imports_point_down(path):
    assert upward(room(path), path.read_text(encoding="utf-8")) == []


def test_an_import_that_points_up_is_seen():
    inside = "def f():\n    from hcviz.cloning import card\n    from hcviz.io.files import x\n"
    assert upward("architecture", inside) == ["cloning.card"]
    assert upward("training", inside) == []


def test_the_chain_of_rooms_is_short():
    rooms: dict[str, set[str]] = {}
    for module, targets in graph().items():
        rooms.setdefault(module.split(".")[0], set()).update(t.split(".")[0] for t in targets)

    def chain(name: str) -> list[str]:
        below = (chain(other) for other in rooms[name] - {name, "errors"})  # a file, no room
        return [name, *max(below, key=len, default=[])]

    assert len(chain("cli")) <= 8, chain("cli")


def test_no_circle_inside_a_room():
    left = {m: {t for t in found if t != m} for m, found in graph().items()}
    inits = {m for m in left if (PACKAGE / m).is_dir()}  # they load their room for its users
    left = {m: found - inits for m, found in left.items() if m not in inits}
    while free := {m for m, found in left.items() if not found & left.keys()}:
        left = {m: found for m, found in left.items() if m not in free}
    assert not left


def test_what_is_private_stays_in_its_room():
    crossing = [
        f"{path.relative_to(PACKAGE)}: {name}"
        for path in modules()
        for name in imports(path.read_text(encoding="utf-8"))
        if name.startswith("hcviz.")
        and any(part.startswith("_") and not part.startswith("__") for part in name.split("."))
        and name.split(".")[1] != room(path)
    ]
    assert not crossing


def test_tests_mirror_the_rooms():
    folders = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    assert folders - {"browser"} == set(ROOMS) - {"errors", "__main__"}


def strangers(tests: list[str]) -> list[str]:
    """Return which tests, as room/test_X.py, are named after a file of another room only."""
    files: dict[str, set[str]] = {}
    for path in modules():
        files.setdefault(path.stem.strip("_"), set()).add(path.parent.name)
    named = [(test, *test.removesuffix(".py").split("/test_")) for test in tests]
    return [test for test, room, name in named if room not in files.get(name, {room})]


def test_a_test_is_named_after_no_file_of_another_room():
    found = (ROOT / "tests").glob("*/test_*.py")
    assert not strangers([f"{path.parent.name}/{path.name}" for path in found])
    own, spanning, wrong = "metrics/test_copies.py", "io/test_names.py", "plots/test_copies.py"
    assert strangers([own, spanning, wrong]) == [wrong]


def private(source: str, room: str) -> list[str]:
    """Return the private names of hcviz in a test; the private files of its own room are fair."""
    taken = [name for name in imports(source) if name.startswith("hcviz.")]
    taken += re.findall(r"[\"'](hcviz\.[\w.]+)[\"']", source)  # patched by its path
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)]
    ours = [node for node in nodes if f"{node.module}.".startswith("hcviz.")]
    bound = "|".join(alias.asname or alias.name for node in ours for alias in node.names) or "hcviz"
    inside = rf"\b(?:{bound})\._[a-zA-Z]\w*|\b\w*attr\(\w+, \"_[a-zA-Z]\w*\"|\b__wrapped__"
    found = [name for name in taken if "._" in name.removeprefix(f"hcviz.{room}._")]
    return found + re.findall(inside, source)


@pytest.mark.parametrize(
    "path",
    sorted((ROOT / "tests").rglob("test_*.py")),
    ids=lambda path: str(path.relative_to(ROOT / "tests")),
)
def test_tests_ask_what_not_how(path):
    if path.name != "test_house.py":
        assert private(path.read_text(encoding="utf-8"), path.parent.name) == []


def test_a_private_name_in_a_test_is_seen():
    assert private("from hcviz.metrics._copies import pairs", "metrics") == []
    assert private("from hcviz.metrics._copies import pairs", "io") == [
        "hcviz.metrics._copies.pairs"
    ]
    for source in (
        "from hcviz.cloning.clone import _reads_copies",
        "from hcviz.plots import _axes\n_axes._apart([1])",
        'from hcviz.widening import twin as t\npatch.setattr(t, "_PASSED", {})',
        "patch.setattr('hcviz.io.shards._put', None)",
        "spectrum.__wrapped__(run)",
    ):
        assert private(source, "plots"), source


def test_public_names_are_frozen():
    assert hcviz.__all__ == PUBLIC


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("ipywidgets", {"views"}),
        ("tyro", {"cli"}),
        ("matplotlib", {"plots", "views", "claims"}),
    ],
)
def test_heavy_packages_stay_in_their_rooms(package, allowed):
    users = {
        room(path)
        for path in modules()
        if any(name.split(".")[0] == package for name in imports(path.read_text(encoding="utf-8")))
    }
    assert users <= allowed


@pytest.mark.parametrize(
    "path",
    [path for path in modules() if room(path) in ("statistics", "plots")],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_plots_and_statistics_do_without_models(path):
    used = {name.split(".")[0] for name in imports(path.read_text(encoding="utf-8"))}
    assert not used & {"torch", "transformers", "safetensors"}


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("hcviz", "numpy torch transformers pandas matplotlib"),
        ("hcviz.plots", "torch transformers"),
    ],
)
def test_import_does_not_load(module, absent):
    code = f"import sys, {module}; print(*sorted(set({absent.split()}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("name", hcviz.__all__)
def test_public_name_is_there_and_documented(name):
    thing = getattr(hcviz, name)
    assert thing.__doc__
    assert name in dir(hcviz)
    if name != "plots":
        assert getattr(importlib.import_module(thing.__module__), name) is thing


@pytest.mark.parametrize("name", hcviz.__all__)
def test_public_name_is_in_the_readme(name):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    prose = re.sub(r"^```.*?^```", "", readme, flags=re.MULTILINE | re.DOTALL)
    assert re.search(rf"`[^`\n]*\b{name}\b[^`\n]*`", prose), f"`{name}` is missing in README.md"


def test_no_verb_is_hidden_by_a_file_of_its_name():
    """Importing hcviz.verify, a room, would put it in the place of hcviz.verify, the function."""
    assert {room(path) for path in modules()} & set(hcviz.__all__) == {"plots"}


def test_unknown_public_name_is_refused_with_the_known_ones():
    with pytest.raises(AttributeError, match="clone"):
        _ = hcviz.clown


def test_commands_of_the_readme_are_tested():
    commands = re.findall(
        r"^\s*(?:\$ )?(hcviz|make) ([a-z][\w-]*)",
        fenced((ROOT / "README.md").read_text(encoding="utf-8")),
        flags=re.MULTILINE,
    )
    assert commands
    tests = (ROOT / "tests" / "test_readme.py").read_text(encoding="utf-8")
    missing = [
        f"{tool} {verb}"
        for tool, verb in dict.fromkeys(commands)
        if not re.search(rf"({tool} |[\"']){verb}\b", tests)
    ]
    assert not missing, "name them in tests/test_readme.py"


def test_files_are_short():
    long = {
        str(path.relative_to(ROOT)): lines
        for path in tracked(".py")
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 400
    }
    assert not long


def test_modules_say_what_they_are():
    silent = [
        str(path.relative_to(ROOT))
        for path in tracked(".py")
        if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not silent


def test_notebooks_are_committed_without_outputs():
    for path in tracked(".ipynb"):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        assert "widgets" not in notebook["metadata"], path.name
        for cell in notebook["cells"]:
            assert not cell.get("outputs"), f"{path.name}: run nbstripout"
            assert cell.get("execution_count") is None, f"{path.name}: run nbstripout"


def test_nothing_local_is_committed():
    found = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # weights and pictures
        hits = [match.group() for rule in (LOCAL, HOSTS) for match in rule.finditer(text)]
        found += [f"{path.relative_to(ROOT)}: {hit}" for hit in hits]
    assert not found


def test_local_paths_and_hosts_are_recognised():
    place, host = "/home" + "/ada/runs", "https://pypi" + ".org/simple"
    assert LOCAL.search(f"see {place}")
    assert LOCAL.search("C:" + r"\Users\ada")
    assert HOSTS.search(host)
    assert not LOCAL.search("https://example.org/home" + "/ada, data/sources/opt, $OUT/tmp" + "/x")


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"])
def test_files_that_the_papers_name_are_there(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    named = re.findall(r"`([\w.-]+(?:/[\w.-]*)+|[\w.-]+\.(?:py|md|toml|yml|cff))`", text)
    ours = [path for path in named if "/" not in path or (ROOT / path.split("/")[0]).is_dir()]
    known = {path.name for path in tracked()}
    missing = [
        path
        for path in ours
        if not (ROOT / path).exists() and path not in known and not path.startswith("runs/")
    ]
    assert not missing
