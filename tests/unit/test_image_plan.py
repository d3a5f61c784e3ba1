"""Plans: what is refused before work begins, and what decides an image's key."""

from __future__ import annotations

import ast
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.arch import Architecture
from pipeline.core.errors import DependencyError, InputError, StorageError
from pipeline.image import plan as plans
from tests.unit.projects import Project

FOREIGN = Architecture.ARM64 if Architecture.host() is Architecture.AMD64 else Architecture.AMD64


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    return Project(tmp_path)


# --- what is refused -------------------------------------------------------------------------------------------------


def test_an_overlay_that_is_missing(project: Project) -> None:
    project.release["overlays"].append("nowhere")
    with pytest.raises(InputError, match="the overlay 'nowhere', but there is no directory") as caught:
        project.plan()
    assert "common, deb" in caught.value.hint


def test_no_overlays_at_all(project: Project) -> None:
    shutil.rmtree(project.overlays)
    with pytest.raises(InputError, match="the overlay 'common'") as caught:
        project.plan()
    assert "none is there" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("10-x.sh", 0o644),
        ("x.sh", 0o755),
        ("1-x.sh", 0o755),
        ("100-x.sh", 0o755),
        ("10-x", 0o755),
        ("10-x.py", 0o755),
        ("10_x.sh", 0o755),
        ("10-X.sh", 0o755),
        ("10-x.sh~", 0o755),
        ("10-x.sh\n", 0o755),
        (".10-x.sh.swp", 0o644),
    ],
)
def test_a_script_that_would_not_run(project: Project, name: str, mode: int) -> None:
    script = project.overlays / "deb/scripts" / name
    script.write_text("#!/bin/bash\n")
    script.chmod(mode)
    with pytest.raises(InputError, match=r"is not an executable file called NN-name\.sh") as caught:
        project.plan()
    assert str(script) in caught.value.message
    assert "chmod +x" in caught.value.hint


def test_a_directory_among_the_scripts(project: Project) -> None:
    (project.overlays / "deb/scripts/10-x.sh").mkdir()
    with pytest.raises(InputError, match=r"10-x\.sh is not an executable file"):
        project.plan()


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "x",
        "-1",
        "1.5",
        "0",
        "315532799",
        "2147483648",
        "9" * 30,
        "²",
        "0x10",
        "1e9",
        "1700000000 ",
        "+1700000000",
        "1700000000\n",
        "1_700_000_000",
        "1700000000.0",
        "\u0661\u0667" * 5,
        "2026-11-25",
        "now",
    ],
)
def test_a_source_date_epoch_that_is_no_usable_time(
    project: Project, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", text)
    with pytest.raises(InputError, match="SOURCE_DATE_EPOCH is ") as caught:
        project.plan()
    assert "git log" in caught.value.hint


@pytest.mark.parametrize("text", ["315532800", "1700000000", "2147483647"])
def test_a_source_date_epoch(project: Project, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", text)
    assert project.plan().epoch == int(text)


def test_a_disk_that_is_too_small_is_refused_in_the_plan(project: Project) -> None:
    project.release["disk"]["size"] = "256M"
    with pytest.raises(InputError, match="256 MiB leaves no room") as caught:
        project.plan()
    assert "disk.size" in caught.value.hint


def test_a_password_in_the_mirrors_url(project: Project) -> None:
    with pytest.raises(InputError, match="must not carry a password") as caught:
        project.plan(mirror="http://user:secret@mirror.example/debian")
    assert "netrc" in caught.value.hint
    assert "secret" not in caught.value.message + caught.value.hint


# --- what decides the key --------------------------------------------------------------------------------------------


def _write(path: str, text: str, mode: int = 0o644) -> Callable[[Project], None]:
    def change(project: Project) -> None:
        target = project.directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)

    return change


def _mode(path: str, mode: int) -> Callable[[Project], None]:
    return lambda project: (project.directory / path).chmod(mode)


def _in_release(*keys: str, value: object) -> Callable[[Project], None]:
    def change(project: Project) -> None:
        place: Any = project.release
        for key in keys[:-1]:
            place = place[key]
        if isinstance(place[keys[-1]], list):
            place[keys[-1]].append(value)
        else:
            place[keys[-1]] = value

    return change


def _title(project: Project) -> None:
    project.data["title"] = "Another title"


INPUTS: dict[str, Callable[[Project], None]] = {
    "title": _title,
    "codename": _in_release("codename", value="trixie"),
    "suite": _in_release("base", "suites", value="bookworm-updates"),
    "component": _in_release("base", "components", value="contrib"),
    "key": _in_release("base", "fingerprints", value="A" * 40),
    "exclude": _in_release("base", "exclude", value="/usr/share/x/*"),
    "keep": _in_release("base", "keep", value="/usr/share/x/y"),
    "avoid": _in_release("base", "avoid", value="x"),
    "package": _in_release("packages", value="vim-tiny"),
    "package of this architecture": _in_release("arch", "amd64", "packages", value="vim-tiny"),
    "kernel argument": _in_release("boot", "kernel_arguments", value="quiet"),
    "disk size": _in_release("disk", "size", value="5G"),
    "esp size": _in_release("disk", "esp_size", value="65M"),
    "ext4 feature": _in_release("disk", "ext4_features", value="quota"),
    "expectation": _in_release("verify", "modules", value="nbd"),
    "fewer overlays": lambda project: project.release["overlays"].pop(),
    "order of overlays": lambda project: project.release["overlays"].reverse(),
    "file of an overlay": _write("overlays/common/root/etc/new", "x"),
    "script of an overlay": _write("overlays/deb/scripts/99-x.sh", "#!/bin/bash\n", 0o755),
    "executable bit": _mode("overlays/common/root/etc/hosts", 0o755),
}


@pytest.mark.parametrize("change", INPUTS.values(), ids=INPUTS.keys())
def test_every_input_changes_the_key(project: Project, change: Callable[[Project], None]) -> None:
    before = project.plan()
    change(project)
    assert project.plan().key != before.key


def test_architecture_mirror_and_epoch_change_the_key(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {project.plan().key, project.plan(Architecture.ARM64).key, project.plan(mirror="http://127.0.0.1:2/d").key}
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert len({*keys, project.plan().key}) == 4


NO_INPUTS: dict[str, Callable[[Project], None]] = {
    "nothing": lambda _: None,
    "the installer's scripts": _write("installer-image/payload/lib/x.sh", "x"),
    "documents": _write("docs/x.md", "x"),
    "another overlay": _write("overlays/uos/root/etc/x", "x"),
    "an overlay's own notes": _write("overlays/common/README.md", "x"),
    "permissions git does not know": _mode("overlays/common/root/etc/hosts", 0o600),
    "another architecture's packages": _in_release("arch", "arm64", "packages", value="vim-tiny"),
    "order of packages": lambda project: project.release["packages"].reverse(),
}


@pytest.mark.parametrize("change", NO_INPUTS.values(), ids=NO_INPUTS.keys())
def test_what_is_no_input_keeps_the_image(project: Project, change: Callable[[Project], None]) -> None:
    before = project.plan()
    change(project)
    assert project.plan().key == before.key


def test_the_place_of_the_checkout_is_no_input(project: Project, tmp_path: Path) -> None:
    before = project.plan()
    project.directory = tmp_path / "moved"
    project.directory.mkdir()
    project.overlays = project.overlays.rename(project.directory / "overlays")
    assert project.plan().key == before.key
    assert str(tmp_path) not in str(before.inputs)


def test_an_overlay_is_no_input_of_the_base(project: Project) -> None:
    before = project.plan().base_inputs
    INPUTS["file of an overlay"](project)
    INPUTS["kernel argument"](project)
    assert project.plan().base_inputs == before


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Code to hash in place of the real one."""
    found = tmp_path / "code"
    (found / "hooks").mkdir(parents=True)
    (found / "step.py").write_text("def step():\n    return 1\n")
    (found / "hooks/x.sh").write_text("true\n")
    monkeypatch.setattr(plans, "CODE", found)
    plans.code_digest.cache_clear()
    yield found
    plans.code_digest.cache_clear()


@pytest.mark.parametrize(
    ("name", "text", "counts"),
    [
        ("step.py", "def step():\n    return 2\n", True),
        ("step.py", "# said better\ndef step():\n    return 1\n", True),
        ("hooks/x.sh", "true # said better\n", True),
        ("hooks/y.sh", "", True),
        ("__pycache__/step.pyc", "x", False),
        ("other.py", "x = 1\n", False),
    ],
)
def test_code_counts_as_text(code: Path, name: str, text: str, counts: bool) -> None:
    before = plans.code_digest("step.py", "hooks")
    plans.code_digest.cache_clear()
    (code / name).parent.mkdir(exist_ok=True)
    (code / name).write_text(text)
    assert (plans.code_digest("step.py", "hooks") != before) is counts


def test_what_builds_nothing_counts_nothing() -> None:
    """Nothing that builds imports from it: but for the history, which is told when an image is there."""
    aside = {name.removesuffix(".py") for name in plans.ASIDE} - {"__init__"}
    assert all((plans.CODE / name).exists() for name in plans.ASIDE)
    found = set()
    for path in plans.CODE.rglob("*.py"):
        if path.relative_to(plans.CODE).parts[0] in plans.ASIDE:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            module = (node.module or "").split(".") if isinstance(node, ast.ImportFrom) else []
            if isinstance(node, ast.ImportFrom) and module[:2] == ["pipeline", "image"]:
                names = module[2:3] or [alias.name for alias in node.names]
                found |= {(path.name, name) for name in names if name in aside}
    assert found == {("build.py", "history")}


# --- what this machine lacks -----------------------------------------------------------------------------------------

ENABLED = "enabled\ninterpreter /usr/libexec/qemu-binfmt/x\nflags: {flags}\noffset 0\nmagic 7f454c46\n"


def test_programs_of_this_machine_need_no_emulator(tmp_path: Path) -> None:
    plans.check_runnable(Architecture.host(), binfmt=tmp_path)


@pytest.mark.parametrize("flags", ["F", "OCF", "POCF"])
def test_an_emulator_that_is_there(tmp_path: Path, flags: str) -> None:
    (tmp_path / f"qemu-{FOREIGN.qemu}").write_text(ENABLED.format(flags=flags))
    plans.check_runnable(FOREIGN, binfmt=tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "do not run on this machine"),
        (ENABLED.format(flags=""), "disabled or registered without the flag F"),
        (ENABLED.format(flags="OC"), "disabled or registered without the flag F"),
        (ENABLED.format(flags="F").replace("enabled", "disabled"), "disabled or registered without the flag F"),
        ("", "disabled or registered without the flag F"),
    ],
)
def test_an_emulator_that_does_not_work_inside_a_tree(tmp_path: Path, text: str | None, message: str) -> None:
    entry = tmp_path / f"qemu-{FOREIGN.qemu}"
    if text is not None:
        entry.write_text(text)
    with pytest.raises(DependencyError, match=message) as caught:
        plans.check_runnable(FOREIGN, binfmt=tmp_path)
    assert str(entry) in caught.value.message
    assert f"qemu-{FOREIGN.qemu}" in caught.value.hint


@pytest.mark.parametrize("below", ["", "not/yet/there"])
def test_space(tmp_path: Path, below: str) -> None:
    plans.check_space(tmp_path / below, 1)
    with pytest.raises(StorageError, match=r"GB free; a build needs 1000000\.0 GB") as caught:
        plans.check_space(tmp_path / below, 10**15)
    assert str(tmp_path / below) in caught.value.message
    assert "XDG_CACHE_HOME" in caught.value.hint
