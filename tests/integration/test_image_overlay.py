"""Scripts of overlays, in the real sandbox inside a small tree."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.core import namespace, progress
from pipeline.core.errors import InputError, ToolError
from pipeline.image import overlay
from tests.integration import trees

NAMES = {"os": "debian", "release": "12", "codename": "bookworm", "arch": "amd64", "family": "deb"}
VARIABLES = overlay.variables_of(NAMES, "ttyS0", [])
HEAD = "#!/bin/bash\nset -Eeuo pipefail\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return trees.make(tmp_path / "tree")


@pytest.fixture
def named(tmp_path: Path) -> Path:
    found = tmp_path / "overlays/demo"
    (found / "scripts").mkdir(parents=True)
    return found


def script(named: Path, name: str, body: str) -> Path:
    path = named / "scripts" / name
    path.write_text(HEAD + body)
    path.chmod(0o755)
    return path


def apply(root: Path, named: Path, log: Path | None = None) -> None:
    def work() -> None:
        with progress.session(log):
            overlay.apply(root, named, VARIABLES, overlay.environment_of(NAMES))

    namespace.run_private(work)


def test_scripts_run_in_order_after_the_files(root: Path, named: Path) -> None:
    for name in ("20-b.sh", "10-z.sh", "30-a.sh"):
        script(named, name, f"echo {name} >>/etc/order; cat /etc/rendered >>/etc/order\n")
    (named / "root/etc").mkdir(parents=True)
    (named / "root/etc/rendered.j2").write_text("{{ arch }}\n")
    apply(root, named)
    assert (root / "etc/order").read_text().split() == ["10-z.sh", "amd64", "20-b.sh", "amd64", "30-a.sh", "amd64"]


def test_what_a_script_is_given(root: Path, named: Path) -> None:
    script(
        named, "10-x.sh", "pwd >/etc/seen; export -p >>/etc/seen; id -u >>/etc/seen; cat /proc/net/dev >>/etc/seen\n"
    )
    apply(root, named)
    seen = (root / "etc/seen").read_text()
    assert seen.startswith("/\n")
    for name, value in NAMES.items():
        assert f'IMAGE_{name.upper()}="{value}"' in seen
    assert "\n0\n" in seen
    assert "lo:" in seen
    assert "eth" not in seen


def test_a_script_leaves_nothing_but_what_it_wrote(root: Path, named: Path) -> None:
    script(named, "10-x.sh", "echo x >/tmp/x; echo x >/run/x\n")
    apply(root, named)
    assert list((root / "run").iterdir()) == list((root / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    ("body", "status", "last_words"),
    [
        ("echo 'about to fail'; exit 3\n", 3, "about to fail"),
        ("cat /etc/missing; echo never\n", 1, "/etc/missing: No such file or directory"),
        ("echo $UNSET_VARIABLE\n", 1, "UNSET_VARIABLE: unbound variable"),
        ("if then\n", 2, "syntax error"),
        ("no-such-command\n", 127, "no-such-command: command not found"),
        ("kill -9 $$\n", 137, ""),
    ],
    ids=["exit", "failing command", "unset variable", "syntax", "missing command", "killed"],
)
def test_a_script_that_fails_is_named_with_its_last_lines(
    root: Path, named: Path, tmp_path: Path, body: str, status: int, last_words: str
) -> None:
    wrong = script(named, "20-wrong.sh", body)
    script(named, "30-later.sh", "touch /etc/later\n")
    with pytest.raises(ToolError) as caught:
        apply(root, named, tmp_path / "log")
    assert caught.value.message.startswith(f"{wrong}: ")
    assert f"exit status {status}" in caught.value.message
    assert last_words in caught.value.message
    assert "never" not in caught.value.message.replace("echo never", "")
    assert f"correct {wrong}" in caught.value.hint
    assert str(tmp_path / "log") in caught.value.hint
    assert last_words in (tmp_path / "log").read_text()
    assert not (root / "etc/later").exists()


def test_only_the_last_lines_are_shown_and_all_are_logged(root: Path, named: Path, tmp_path: Path) -> None:
    script(named, "10-x.sh", "for ((i = 0; i < 100; i++)); do echo line $i; done; exit 1\n")
    with pytest.raises(ToolError) as caught:
        apply(root, named, tmp_path / "log")
    assert "line 99" in caught.value.message
    assert "line 10\n" not in caught.value.message
    assert "line 10\n" in (tmp_path / "log").read_text()


def test_a_script_without_its_interpreter(root: Path, named: Path) -> None:
    (root / "usr/bin/bash").unlink()
    script(named, "10-x.sh", "true\n")
    with pytest.raises(ToolError, match="/bin/bash: No such file or directory") as caught:
        apply(root, named)
    assert "10-x.sh" in caught.value.message


def test_a_template_that_is_wrong_stops_before_any_script(root: Path, named: Path) -> None:
    (named / "root/etc").mkdir(parents=True)
    (named / "root/etc/x.j2").write_text("{{ hostname }}")
    script(named, "10-x.sh", "touch /etc/ran\n")
    with pytest.raises(InputError, match=r"x\.j2: 'hostname' is undefined"):
        apply(root, named)
    assert not (root / "etc/ran").exists()
