"""Makes ``bundle.pyz``: what the field needs to list, verify, expand and sync a bundle, in one file.

In it::

    __main__.py                                entry.py
    pipeline/                                  modules of this project, lowered to Python 3.6 (lower.py)
    pipeline/bundle/field/helper-{amd64,arm64} the helper, if it could be built: lean bundles need it
    vendor/                                    requests and what it needs, before what the machine has
    backports/                                 dataclasses, contextvars: after what the interpreter has

The same inputs give the same bytes with the same zlib. It is not signed: SHA256SUMS beside it has its hash.

What was run: the lowered modules with CPython 3.11 and PyPy 3.9 by the tests, and looked through by vermin for 3.6. No
Python 3.6, 3.7 or 3.8 was at hand, so there it has NOT been run; nor has it been run on arm64.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import io
import os
import secrets
import shutil
import sys
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.bundle import helper
from pipeline.bundle.field.lower import lower
from pipeline.core import process, progress
from pipeline.core.cache import Cache, cache_root
from pipeline.core.errors import DependencyError, StorageError, ToolError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pipeline.core.cache import Json

NAME = "bundle.pyz"
HERE = Path(__file__).parent
ROOT = HERE.parents[2]
PINS = HERE / "vendor.txt"
BACKPORTS = ("dataclasses",)
ROOTS = ("pipeline.bundle.field.cli",)
EMPTY = ("pipeline.bundle", "pipeline.bundle.field")  # packages whose own front door is for headquarters
KIND, VENDOR_KIND = "bundle-pyz", "bundle-vendor"
RECIPE = 1  # raised when this module packs in another way
SHEBANG = b"#!/usr/bin/env python3\n"
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip file knows
LEVEL = 9
CODING = "# -*- coding: utf-8 -*-\n"  # Python 2 is told politely that it is too old

_PIP_HINT = (
    "bundle.pyz carries requests and what it needs from the package index: set pip's index (PIP_INDEX_URL or pip.conf) "
    "to one that has the versions in pipeline/bundle/field/vendor.txt, and try again"
)


def build(target: Path) -> Path:
    """Write ``bundle.pyz``, or copy the one that the cache has of these inputs.

    Args:
        target: the file; it appears whole, its directory is made.

    Returns:
        The file.

    Raises:
        LoweringError: a module needs more than Python 3.6.
        DependencyError: what it carries of others cannot be fetched.
        StorageError: the cache or the file cannot be written.
    """
    root = cache_root()
    members = own_members() | _helpers(root)
    inputs: dict[str, Json] = {
        "members": {name: hashlib.sha256(data).hexdigest() for name, data in members.items()},
        "vendor": PINS.read_text(encoding="utf-8"),
        "recipe": RECIPE,
        "zlib": zlib.ZLIB_RUNTIME_VERSION,
    }

    with Cache(root) as cache:
        wheels = cache.obtain(VENDOR_KIND, {"pins": PINS.read_text(encoding="utf-8")}, _fetch).path

        def make(folder: Path) -> None:
            everything = members | _vendored(wheels)
            (folder / NAME).write_bytes(zipped(everything))

        made = cache.obtain(KIND, inputs, make).path / NAME
        _put(made, target)
    return target


def own_members() -> dict[str, bytes]:
    """Return this project's modules for the zip, lowered: their content by name.

    Raises:
        LoweringError: a module needs more than Python 3.6.
    """
    members: dict[str, bytes] = {}
    waiting, seen = list(ROOTS), set(ROOTS)
    while waiting:
        name = waiting.pop()
        path = _path(name)
        if name in EMPTY:
            members[str(path)] = b""
            continue
        source = lower((ROOT / path).read_text(encoding="utf-8"), str(path))
        members[str(path)] = source.encode()
        new = {*_imported(ast.parse(source)), *_packages(name)} - seen
        seen |= new
        waiting += sorted(new)
    return members | stand_ins()


def stand_ins() -> dict[str, bytes]:
    """Return the modules that go into the zip under another name, lowered: their content by name."""
    own = HERE.relative_to(ROOT)
    return {
        "__main__.py": CODING.encode() + _lowered(own / "entry.py"),
        "vendor/certifi.py": _lowered(own / "certifi_system.py"),
        "backports/contextvars.py": _lowered(own / "contextvars_36.py"),
    }


def _imported(tree: ast.Module) -> Iterator[str]:
    """Yield the modules of this project that a module imports, if it cannot do without them."""
    optional = {id(node) for attempt in ast.walk(tree) if isinstance(attempt, ast.Try) for node in _spared(attempt)}
    for node in ast.walk(tree):
        if id(node) in optional:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("pipeline"))
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "pipeline":
            yield node.module
            inner = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name for name in inner if (ROOT / _path(name)).is_file())


def _spared(attempt: ast.Try) -> Iterator[ast.AST]:
    """Yield what is tried, if a failing import is borne."""
    if any(isinstance(caught.type, ast.Name) and caught.type.id == "ImportError" for caught in attempt.handlers):
        for statement in attempt.body:
            yield from ast.walk(statement)


def _packages(name: str) -> set[str]:
    words = name.split(".")
    return {".".join(words[:count]) for count in range(1, len(words))}


def _path(name: str) -> Path:
    """Return a module's file, below the project's directory."""
    path = Path(*name.split("."))
    return path / "__init__.py" if (ROOT / path).is_dir() else path.with_suffix(".py")


def zipped(members: Mapping[str, bytes]) -> bytes:
    """Return a zip file that can be run: sorted, with one time, behind a line that names the interpreter."""
    stream = io.BytesIO()
    stream.write(SHEBANG)
    with zipfile.ZipFile(stream, "w") as archive:
        for name in sorted(members):
            info = zipfile.ZipInfo(name, EPOCH)
            info.create_system, info.external_attr = 3, 0o100644 << 16  # made on Unix, a plain file
            archive.writestr(info, members[name], zipfile.ZIP_DEFLATED, LEVEL)
    return stream.getvalue()


def _lowered(path: Path) -> bytes:
    return lower((ROOT / path).read_text(encoding="utf-8"), str(path)).encode()


def _helpers(root: Path) -> dict[str, bytes]:
    """Return the helper's programs; nothing if they cannot be built here, and then no bundle is stored lean."""
    try:
        programs = helper.build(root)
    except (DependencyError, ToolError) as error:
        progress.note(f"{NAME} is made without the helper, so lean bundles cannot be made: {error.message}")
        return {}
    return {f"pipeline/bundle/field/helper-{arch}": path.read_bytes() for arch, path in programs.items()}


def _fetch(folder: Path) -> None:
    """Fetch the pinned wheels; pip checks their hashes."""
    own = {name: value for name, value in os.environ.items() if name.startswith("PIP_") or name == "HOME"}
    words = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--no-deps", "--require-hashes"]
    words += ["--only-binary", ":all:", "--python-version", "3.6", "--dest", str(folder), "--requirement", str(PINS)]
    try:
        process.run(words, env=own, network=True, what=f"fetching what {NAME} carries")
    except ToolError as error:
        raise DependencyError(error.message, hint=_PIP_HINT) from error


def _vendored(wheels: Path) -> dict[str, bytes]:
    """Return what is in the wheels, less what installers write and read; their licences stay."""
    found: dict[str, bytes] = {}
    for path in sorted(wheels.glob("*.whl")):
        place = "backports" if path.name.partition("-")[0] in BACKPORTS else "vendor"
        with zipfile.ZipFile(path) as wheel:
            for name in wheel.namelist():
                if ".dist-info/" not in name or "LICENSE" in name:
                    found[f"{place}/{name}"] = wheel.read(name)
    return found


def _put(made: Path, target: Path) -> None:
    with _naming(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        try:
            shutil.copyfile(made, part)
            part.chmod(0o755)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)


@contextlib.contextmanager
def _naming(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"{target} cannot be written: {error}", hint="check the directory and its space") from error
