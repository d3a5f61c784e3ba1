"""The scripts that mmdebstrap runs for a Debian base, one by one in small trees."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from pipeline.core import namespace, process
from pipeline.core.errors import ToolError
from pipeline.image.bases import deb, plain
from tests.integration import trees

pytestmark = pytest.mark.root

# Each line of a fake dpkg's work is a script of a package; the log tells who did what.
DPKG = """\
#!/bin/bash
py3compile -p first
py3compile -p 'second one' -X '\\w+ "x"' /usr/lib/x
echo "configured $* ${PYTHONDONTWRITEBYTECODE}" >>/log
"""
PY3COMPILE = """\
#!/bin/bash
echo "$(printf '<%s>' "$@")" >>/compiled # at once: another one may run
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    tree = trees.make(tmp_path / "tree", (*trees.PROGRAMS, "sh"))
    script(tree / "usr/bin/dpkg", DPKG)
    return tree


def script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def run(name: str, *arguments: str, **env: str) -> str:
    """Run one of the scripts as mmdebstrap would: as root of the private namespace."""
    return namespace.run_private(
        lambda: process.run([deb.HOOKS / name, *arguments], env=env, capture=True, what="the hook").stdout
    )


def split(root: Path, decompressed: Path, *arguments: str) -> str:
    return run("dpkg-split.sh", *arguments, TREE=str(root), DECOMPRESSED=str(decompressed), NATIVE="")


def test_python_is_compiled_beside_the_scripts(root: Path, tmp_path: Path) -> None:
    script(root / "usr/bin/py3compile", PY3COMPILE)
    before = {path: path.stat().st_mtime_ns for path in (root / "run", root / "usr/lib", root / "usr/bin")}
    split(root, tmp_path, "--configure", "a b", "c")
    assert sorted((root / "compiled").read_text().splitlines()) == [
        "<-p><first>",
        r'<-p><second one><-X><\w+ "x"></usr/lib/x>',
    ]
    assert (root / "log").read_text() == "configured --force-unsafe-io --configure a b c 1\n"
    assert (root / "usr/bin/py3compile").read_text() == PY3COMPILE
    assert list((root / "run").iterdir()) == []
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_without_a_compiler_scripts_run_all_the_same(root: Path, tmp_path: Path) -> None:
    script(root / "usr/bin/dpkg", "#!/bin/bash\necho done >/log\n")
    split(root, tmp_path, "--configure", "a")
    assert (root / "log").read_text() == "done\n"


@pytest.mark.parametrize(
    ("dpkg", "compiler", "said"),
    [
        (DPKG, "#!/bin/bash\necho no space; exit 1\n", "E: compiling Python modules failed"),
        ("#!/bin/bash\necho broken; exit 7\n", PY3COMPILE, "broken"),
    ],
    ids=["compiler", "dpkg"],
)
def test_a_failure_is_not_lost(dpkg: str, compiler: str, said: str, root: Path, tmp_path: Path) -> None:
    script(root / "usr/bin/dpkg", dpkg)
    script(root / "usr/bin/py3compile", compiler)
    env = {"TREE": str(root), "DECOMPRESSED": str(tmp_path), "NATIVE": ""}

    def configure() -> None:
        process.run([deb.HOOKS / "dpkg-split.sh", "--configure", "a"], env=env)

    with pytest.raises(ToolError, match=said):
        namespace.run_private(configure)
    assert list((root / "run").iterdir()) == []


def test_what_the_filters_exclude_is_removed(tmp_path: Path) -> None:
    slim, tree = tmp_path / "slim", tmp_path / "tree with a [name]"
    filters = ["exclude=/usr/share/doc/*", "exclude=/usr/share/man/*", "include=/usr/share/doc/*/copyright"]
    slim.write_text("\n".join(["# a remark", *(f"path-{line}" for line in filters)]) + "\n")
    kept = ["usr/share/doc/a/copyright", "usr/share/docs", "usr/share/manual/x", "usr/share/locale/de"]
    removed = ["usr/share/doc/a/README", "usr/share/doc/b/examples/x y", "usr/share/man/man1/a.1"]
    for name in [*kept, *removed]:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).touch()
    (tree / "usr/share/man/link").symlink_to("/nowhere")
    run("slim.sh", str(tree), SLIM_CONFIG=str(slim))
    assert sorted(str(path.relative_to(tree)) for path in tree.rglob("*") if not path.is_dir()) == sorted(kept)
    assert not (tree / "usr/share/doc/b").exists()


@pytest.mark.parametrize("how", ["files", "directory"])
def test_decompressed_archives_are_unpacked_in_place_of_their_originals(how: str, tmp_path: Path) -> None:
    archives = [package(tmp_path, name) for name in ("one", "two")]
    decompressed = tmp_path / "decompressed"
    decompressed.mkdir()
    plain.decompress(archives[0], decompressed)
    assert os.listdir(decompressed) == ["one_1_all.deb"]
    # If it were still read, it would be seen.
    archives[0].write_bytes(b"not read")
    tree = tmp_path / "tree"
    (tree / "var/lib/dpkg/updates").mkdir(parents=True)
    (tree / "var/lib/dpkg/info").mkdir()
    for name in ("status", "available"):
        (tree / "var/lib/dpkg" / name).touch()
    words = ["--unpack", *map(str, archives)]
    if how == "directory":
        links = tmp_path / "links"
        links.mkdir()
        for number, archive in enumerate(archives):
            (links / f"{number}-{archive.name}").symlink_to(archive)
        words = ["--unpack", "--recursive", str(links)]
    split(tree, decompressed, *words)
    assert [(tree / name).read_text() for name in ("one", "two")] == ["one", "two"]
    assert os.listdir(decompressed) == []


def package(where: Path, name: str) -> Path:
    folder = where / f"{name}-content"
    (folder / "DEBIAN").mkdir(parents=True)
    (folder / name).write_text(name)
    (folder / "DEBIAN/control").write_text(
        f"Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: Nobody <nobody@example.com>\nDescription: x\n"
    )
    archive = where / f"{name}_1_all.deb"
    subprocess.run(["dpkg-deb", "--build", "-Zxz", folder, archive], check=True, capture_output=True)
    return archive
