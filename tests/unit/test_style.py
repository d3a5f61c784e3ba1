"""The code is as agreed: the checking tools, the floors of the house, and nothing of this machine in it."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import quality
from pipeline.quality import ROOT, Check

# Rooms by floor (DESIGN §3): an import goes to a lower floor or stays inside its room.
FLOORS = {
    "core": 0,
    "oci": 1,
    "profile": 1,
    "quality": 1,
    "image": 2,
    "installer": 2,
    "bundle": 2,
    "release": 2,
    "lab": 2,
    "matrix": 3,
    "tasks": 4,
}
CODE = [path for path in quality.tracked_files() if path.suffix == ".py" and path.parts[0] in {"pipeline", "tasks.py"}]


@pytest.mark.parametrize("check", quality.checks(), ids=lambda check: check.name)
def test_checks_find_nothing(check: Check) -> None:
    found = quality.verdict(check)
    assert not found, f"{check.name}:\n{found}"


def test_every_shell_script_is_found() -> None:
    shell, _ = quality.shell_files()
    assert {"invoke", ".ci/run"} <= set(shell)


# ------------------------------------------------------------------------------------------ floors


def room_of(path: Path) -> str:
    """``pipeline/image/disk.py`` -> ``image``; ``pipeline/quality.py`` -> ``quality``; ``tasks.py`` -> ``tasks``."""
    return path.stem if len(path.parts) == 1 else Path(path.parts[1]).stem


def imports(tree: ast.AST) -> Iterator[tuple[int, str, str]]:
    """Yield line, module and name of everything that is imported from our own code."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module == "pipeline":
            found = [(f"pipeline.{alias.name}", "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found = [(node.module or "", alias.name) for alias in node.names]
        else:
            continue
        yield from ((node.lineno, module, name) for module, name in found if module.startswith("pipeline."))


def front_door(room: str) -> set[str]:
    """Return what a room names for others to use."""
    tree = ast.parse((ROOT / "pipeline" / room / "__init__.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return set(ast.literal_eval(node.value))
    return set()


def complaints(path: Path, text: str) -> list[str]:
    """Say what is wrong with a file's imports."""
    here, found = room_of(path), []
    for line, module, name in imports(ast.parse(text)):
        there = module.split(".")[1]
        where = f"{path}:{line}: {here} imports {module}"
        if there == here:
            continue
        if FLOORS[there] >= FLOORS[here]:
            found.append(f"{where}: that goes up, or sideways")
        elif there not in {"core", "quality"} and (module.count(".") > 1 or (name and name not in front_door(there))):
            found.append(f"{where}{'.' * bool(name)}{name}: not by the front door (pipeline/{there}/__init__.py)")
    return found


def test_every_room_has_a_floor() -> None:
    rooms = {room_of(path) for path in CODE if path.name != "__init__.py" or len(path.parts) > 2}
    assert rooms - {"setup"} <= set(FLOORS)


@pytest.mark.parametrize("path", CODE, ids=str)
def test_imports_go_down_and_by_the_front_door(path: Path) -> None:
    assert complaints(path, (ROOT / path).read_text()) == []


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("pipeline/core/cache.py", "from pipeline.profile import load"),
        ("pipeline/core/cache.py", "def f():\n    from pipeline import quality"),
        ("pipeline/lab/machine.py", "from pipeline.image import build"),
        ("pipeline/lab/machine.py", "import pipeline.image.disk"),
        ("pipeline/image/plan.py", "from pipeline.profile.load import load"),
        ("pipeline/image/plan.py", "import pipeline.profile.load"),
        ("pipeline/image/plan.py", "from pipeline.profile import SIZE_UNITS"),
    ],
)
def test_a_wrong_import_is_seen(path: str, text: str) -> None:
    assert len(complaints(Path(path), text)) == 1


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("pipeline/image/plan.py", "from pipeline.profile import load"),
        ("pipeline/image/plan.py", "from pipeline.image.bases import deb"),
        ("pipeline/image/plan.py", "from pipeline.core.errors import InputError"),
        ("tasks.py", "from pipeline import quality"),
        ("tasks.py", "import pathlib"),
    ],
)
def test_a_right_import_is_let_through(path: str, text: str) -> None:
    assert complaints(Path(path), text) == []


# ------------------------------------------------------------------------------- nothing of this machine


def output(*argv: str) -> str:
    """Return what a program prints; nothing if it is not there."""
    if shutil.which(argv[0]) is None:
        return ""
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout


def registry_hosts() -> set[str]:
    """Return the hosts that this machine's package managers are set to."""
    sources = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]
    texts = [path.read_text(errors="replace") for path in sources if path.is_file()]
    texts += [output("pip", "config", "list"), output("npm", "config", "get", "registry")]
    urls = re.findall(r"https?://([^/\s'\"]+)", "\n".join(texts))
    return {url.rpartition("@")[2].partition(":")[0] for url in urls} - {"localhost", "127.0.0.1"}


def machine_words() -> list[str]:
    """Return what no file of the project may hold: absolute paths and registry hosts of this machine."""
    return sorted({f"{ROOT}/", f"{Path.home()}/."} | registry_hosts())


def test_no_file_names_this_machine() -> None:
    words = machine_words()
    texts = {path: (ROOT / path).read_bytes().decode("utf-8", "replace") for path in quality.tracked_files()}
    assert [f"{path}: {word}" for path, text in texts.items() for word in words if word in text] == []
