"""The private namespace with the real kernel, as root and (see test_ordinary_user.py) as an ordinary user."""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import pytest

from pipeline.core import namespace
from pipeline.core.errors import (
    DependencyError,
    InputError,
    NetworkError,
    PipelineError,
    StorageError,
    ToolError,
    VerificationError,
)
from tests.integration import processes, trees
from tests.integration.ordinary import OrdinaryUser

ROOT = Path(__file__).resolve().parents[2]
IS_ROOT = os.geteuid() == 0


def _reason_not_to_run() -> str:
    try:
        namespace.run_private(lambda: None)
    except DependencyError as error:
        return f"{error.message}; {error.hint}"
    return ""


pytestmark = pytest.mark.skipif(bool(_reason_not_to_run()), reason=_reason_not_to_run() or "runs")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trees.make(tmp_path_factory.mktemp("tree") / "root")


def start(script: str) -> subprocess.Popen[str]:
    """Start Python code in a session of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


# --- what crosses over -----------------------------------------------------------------------------------------------


def test_the_result_crosses_over() -> None:
    value = {"path": Path("/x"), "numbers": (1, 2.5), "text": "ß", "big": bytes(3_000_000)}
    assert namespace.run_private(lambda: value) == value


@pytest.mark.parametrize(
    "kind", [PipelineError, InputError, DependencyError, ToolError, StorageError, NetworkError, VerificationError]
)
def test_an_error_crosses_over_whole(kind: type[PipelineError]) -> None:
    def fail() -> None:
        raise kind("what went wrong", hint="what to do")

    with pytest.raises(kind) as caught:
        namespace.run_private(fail)
    assert type(caught.value) is kind
    assert (caught.value.message, caught.value.hint) == ("what went wrong", "what to do")


def test_another_error_is_a_defect_with_its_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise ValueError("odd")

    with pytest.raises(PipelineError, match="unexpected ValueError: odd") as caught:
        namespace.run_private(fail)
    assert caught.value.exit_code == 70
    assert re.search(r'File ".*test_namespace.py", line \d+, in fail', capfd.readouterr().err)


@pytest.mark.parametrize("size", [0, 1_000_000])
def test_a_result_that_cannot_cross_is_a_defect(size: int, capfd: pytest.CaptureFixture[str]) -> None:
    def answer() -> list[object]:
        return [bytes(size), lambda: None]

    with pytest.raises(PipelineError, match=r"unexpected .*[pP]ickl"):
        namespace.run_private(answer)
    assert "Traceback" in capfd.readouterr().err


def test_a_worker_that_is_killed_says_so() -> None:
    def vanish() -> None:
        os.kill(os.getpid(), signal.SIGKILL)  # the first process of a namespace cannot kill itself ...
        os.close(int(max(os.listdir("/proc/self/fd"), key=int)))
        os._exit(9)  # ... but it can end

    with pytest.raises(PipelineError, match="ended without an answer") as caught:
        namespace.run_private(vanish)
    assert caught.value.hint


# --- the world inside ------------------------------------------------------------------------------------------------


def test_inside_it_is_root_and_the_first_process() -> None:
    def look() -> tuple[int, int, int, set[str]]:
        return os.getuid(), os.getgid(), os.getpid(), {name for name in os.listdir("/proc") if name.isdigit()}

    assert namespace.run_private(look) == (0, 0, 1, {"1"})


def test_inside_files_can_have_any_owner(tmp_path: Path) -> None:
    def make() -> None:
        for owner in (0, 1, 1000, 65534):
            (tmp_path / str(owner)).touch()
            os.chown(tmp_path / str(owner), owner, owner)

    def owners() -> list[tuple[str, int]]:
        return sorted((path.name, path.stat().st_uid) for path in tmp_path.iterdir())

    namespace.run_private(make)
    assert namespace.run_private(owners) == [("0", 0), ("1", 1), ("1000", 1000), ("65534", 65534)]
    namespace.run_private(lambda: shutil.rmtree(tmp_path))


def test_the_callers_umask_does_not_count(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        namespace.run_private(lambda: (tmp_path / "file").write_text("x"))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644


def test_mounts_stay_inside(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()

    def attach() -> bool:
        namespace.mount("tmpfs", tmp_path / "m", kind="tmpfs", options="size=1m")
        (tmp_path / "m/file").touch()
        return (tmp_path / "m").is_mount()

    before = processes.mounts()
    assert namespace.run_private(attach)
    assert processes.mounts() == before
    assert list((tmp_path / "m").iterdir()) == []


@pytest.mark.root
def test_mounts_stay_inside_although_the_host_shares_its_own(tmp_path: Path) -> None:
    """systemd makes every mount of a host shared: what is mounted in one namespace appears in all."""
    script = f"""
        from pathlib import Path
        from pipeline.core import namespace
        place = Path({str(tmp_path)!r})
        namespace.run_private(lambda: namespace.mount("tmpfs", place, kind="tmpfs"))
        print("leaked" if place.is_mount() else "private")
    """
    words = ["unshare", "--mount", "--propagation=shared", sys.executable, "-c", textwrap.dedent(script)]
    assert subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout == "private\n"


def test_unmount_says_why_it_cannot(tmp_path: Path) -> None:
    with pytest.raises(DependencyError, match=f"cannot unmount {re.escape(str(tmp_path))}: Invalid argument"):
        namespace.run_private(lambda: namespace.unmount(tmp_path))


def test_unmount_waits_for_the_end_of_a_program_that_was_killed(tmp_path: Path) -> None:
    def use() -> float:
        namespace.mount("tmpfs", tmp_path, kind="tmpfs")
        user = subprocess.Popen(["sleep", "1"], cwd=tmp_path)
        begun = time.monotonic()
        namespace.unmount(tmp_path)
        waited = time.monotonic() - begun
        user.wait()
        return waited

    assert namespace.run_private(use) > 0.5


# --- the end ---------------------------------------------------------------------------------------------------------

# Each starts programs: one that outlives its parent, one in a session of its own, and one that uses what is to be
# unmounted and that nobody knows of, as if the signal came right after its start; then it says so and waits.
BUSY = """
    import subprocess, sys, time
    from pathlib import Path
    from pipeline.core import namespace, process, progress
    def work():
        try:
            subprocess.Popen(["sh", "-c", "sleep 1000 & sleep 1000 & exit"])
            subprocess.Popen(["setsid", "sleep", "1000"])
            namespace.mount("tmpfs", Path("/mnt"), kind="tmpfs")
            subprocess.Popen(["sleep", "1000"], cwd="/mnt")
            process.run(["sh", "-c", "echo ready; sleep 1000"], on_line=lambda line: print(line, flush=True))
        finally:
            namespace.unmount(Path("/mnt"))
            print("cleaned up", flush=True)
"""
RUN_AND_SAY = """
    try:
        namespace.run_private(work)
    except BaseException as error:
        print("caught", type(error).__name__, flush=True)
        raise SystemExit(3)
"""


@pytest.fixture
def begin() -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Start Python code, and end it with the test."""
    started: list[subprocess.Popen[str]] = []

    def begin(script: str) -> subprocess.Popen[str]:
        started.append(start(script))
        return started[-1]

    yield begin
    for caller in started:
        caller.kill()
        caller.communicate()


Busy: TypeAlias = "Callable[[str], tuple[subprocess.Popen[str], list[processes.Process]]]"


@pytest.fixture
def busy(begin: Callable[[str], subprocess.Popen[str]]) -> Busy:
    """Start a caller whose namespace is full of processes; returns it and all of them."""

    def fill(tail: str) -> tuple[subprocess.Popen[str], list[processes.Process]]:
        caller = begin(textwrap.dedent(BUSY + tail))
        assert caller.stdout is not None
        assert caller.stdout.readline() == "ready\n", caller.communicate()[1]
        below = processes.descendants(caller.pid)
        while [item.name for item in below].count("sleep") < 5:
            assert caller.poll() is None
            below = processes.descendants(caller.pid)
        return caller, below

    return fill


@pytest.mark.parametrize("who", ["caller", "keeper", "worker"])
def test_kill_9_ends_everything(who: str, busy: Busy) -> None:
    before = processes.mounts()
    caller, below = busy(RUN_AND_SAY)
    keeper = next(item for item in below if item.parent == caller.pid)
    worker = next(item for item in below if item.parent == keeper.pid)
    os.kill({"caller": caller.pid, "keeper": keeper.pid, "worker": worker.pid}[who], signal.SIGKILL)
    processes.wait_until_gone(below)
    assert processes.mounts() == before
    out, _ = caller.communicate()
    assert "cleaned up" not in out
    assert who == "caller" or out == "caught PipelineError\n"


@pytest.mark.parametrize("whole_group", [True, False], ids=["terminal", "kill -INT"])
def test_ctrl_c_lets_it_clean_up(whole_group: bool, busy: Busy) -> None:
    caller, below = busy(RUN_AND_SAY)
    if whole_group:
        os.killpg(caller.pid, signal.SIGINT)
    else:
        os.kill(caller.pid, signal.SIGINT)
    out, _ = caller.communicate(timeout=processes.DEADLINE)
    assert out.splitlines() == ["cleaned up", "caught KeyboardInterrupt"]
    assert caller.returncode == 3
    processes.wait_until_gone(below)


def test_impatient_ctrl_c_does_not_cut_the_clean_up_short(begin: Callable[[str], subprocess.Popen[str]]) -> None:
    script = """
        import time
        from pipeline.core import namespace
        def work():
            try:
                print("ready", flush=True)
                time.sleep(1000)
            finally:
                print("cleaning", flush=True)
                time.sleep(0.5)
                print("clean", flush=True)
        namespace.run_private(work)
    """
    caller = begin(textwrap.dedent(script))
    assert caller.stdout is not None
    assert caller.stdout.readline() == "ready\n"
    worker = processes.descendants(caller.pid)[-1]
    os.kill(caller.pid, signal.SIGINT)
    assert caller.stdout.readline() == "cleaning\n"
    for _ in range(3):
        os.kill(worker.pid, signal.SIGINT)
    out, err = caller.communicate(timeout=processes.DEADLINE)
    assert out == "clean\n"
    assert err.splitlines()[-1] == "KeyboardInterrupt"


def test_the_programs_of_a_sandbox_end_with_the_caller(
    tree: Path, begin: Callable[[str], subprocess.Popen[str]]
) -> None:
    script = f"""
        from pathlib import Path
        from pipeline.core import namespace
        print("ready", flush=True)
        namespace.run_private(lambda: namespace.in_tree(Path({str(tree)!r}), ["sleep", "1000"]))
    """
    caller = begin(textwrap.dedent(script))
    assert caller.stdout is not None
    assert caller.stdout.readline() == "ready\n"
    while not any(item.name == "sleep" for item in processes.descendants(caller.pid)):
        assert caller.poll() is None
    below = processes.descendants(caller.pid)
    caller.kill()
    processes.wait_until_gone(below)
    caller.communicate()


# --- what this machine may lack --------------------------------------------------------------------------------------

SAY = """
    from pipeline.core import namespace
    from pipeline.core.console import command
    command(lambda: print(namespace.run_private(lambda: "done")))()
"""


@pytest.mark.root
@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [
        ({"subordinate": ""}, "user 'node-image-tester' is not root and has no range", "usermod --add-subuids"),
        ({"subordinate": "node-image-tester:1000000:1000\n"}, "no range of 65535 subordinate ids", "usermod"),
        ({"subordinate": "somebody:1000000:65536\n"}, "no range of 65535 subordinate ids in /etc/subuid", "usermod"),
        ({"subordinate": "garbage\n::\n"}, "no range of 65535 subordinate ids in /etc/subuid", "usermod"),
        ({"known": False, "subordinate": ""}, "user '64321' is not root and has no range", "usermod"),
        ({"hidden": ("/usr/bin/newuidmap",)}, "program 'newuidmap' is not installed", "uidmap"),
    ],
    ids=["no range", "small range", "another's range", "garbage", "no name", "no newuidmap"],
)
def test_an_ordinary_user_without_means(
    ordinary: OrdinaryUser, change: dict[str, str], message: str, hint: str
) -> None:
    done = replace(ordinary, **change).run([sys.executable, "-c", textwrap.dedent(SAY)], cwd=ROOT)  # type: ignore[arg-type]
    assert done.returncode == DependencyError.exit_code, done.stdout
    assert message in done.stdout
    assert hint in done.stdout.rpartition("hint: ")[2]
    assert "Traceback" not in done.stdout


@pytest.mark.root
@pytest.mark.parametrize("subordinate", ["64321:1000000:65536\n", "other:1:9\nnode-image-tester:1000000:65535\n"])
def test_an_ordinary_user_with_means(ordinary: OrdinaryUser, subordinate: str) -> None:
    done = replace(ordinary, subordinate=subordinate).run([sys.executable, "-c", textwrap.dedent(SAY)], cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, "done\n")


@pytest.mark.root
def test_a_container_without_privileges() -> None:
    """Root, but not allowed to make namespaces: as in a container that was started with the defaults."""
    words = [
        "setpriv",
        "--bounding-set=-sys_admin",
        "--inh-caps=-sys_admin",
        sys.executable,
        "-c",
        textwrap.dedent(SAY),
    ]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == DependencyError.exit_code
    assert "does not let 'root' make a private namespace: Operation not permitted" in done.stderr
    assert "--privileged" in done.stderr


# --- layers ----------------------------------------------------------------------------------------------------------


def layered(here: Path, change: Callable[[Path], object], *, lower: tuple[str, ...] = ("a", "b")) -> Path:
    """Mount layers as one tree, the topmost first, run a change on it, and return the upper layer."""
    for name in ("merged", "upper", "work"):
        (here / name).mkdir(parents=True)

    def work() -> None:
        layers = [here / name for name in lower]
        namespace.mount_layers(layers, here / "merged", upper=here / "upper", work=here / "work")
        change(here / "merged")

    namespace.run_private(work)
    return here / "upper"


@pytest.fixture
def layers(tmp_path: Path) -> Path:
    for path, text in (("a/both", "upper"), ("b/both", "lower"), ("b/gone", "x"), ("b/dir/old", "x"), ("b/kept", "x")):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    return tmp_path


def test_changes_go_to_the_upper_layer(layers: Path) -> None:
    def change(merged: Path) -> None:
        assert (merged / "both").read_text() == "upper"
        (merged / "gone").unlink()
        (merged / "new").write_text("new")
        (merged / "kept").chmod(0o600)
        (merged / "dir/old").unlink()
        (merged / "dir").rmdir()
        (merged / "dir").mkdir()

    upper = layered(layers, change)
    assert sorted(path.name for path in upper.iterdir()) == ["dir", "gone", "kept", "new"]
    whiteout = (upper / "gone").stat()
    assert stat.S_ISCHR(whiteout.st_mode)
    assert whiteout.st_rdev == 0
    assert (layers / "b/gone").read_text() == "x"
    assert (layers / "b/kept").stat().st_mode & 0o777 == 0o644

    def look(merged: Path) -> None:
        assert sorted(path.name for path in merged.iterdir()) == ["both", "dir", "kept", "new"]
        assert list((merged / "dir").iterdir()) == []  # made anew: what was below stays hidden

    layered(layers / "again", look, lower=("../upper", "../a", "../b"))


@pytest.mark.parametrize("odd", ["with space", "co:lon", "com,ma", "back\\slash", "ünï", "lowerdir=x", "a\\:b\\,c"])
def test_paths_may_have_odd_names(tmp_path: Path, odd: str) -> None:
    here = tmp_path / odd
    for name in ("a", "b"):
        (here / name).mkdir(parents=True)
    (here / "b/file").write_text("lower")
    upper = layered(here, lambda merged: (merged / "file").write_text((merged / "file").read_text() + " changed"))
    assert (upper / "file").read_text() == "lower changed"


def test_a_file_system_that_cannot_carry_layers(tmp_path: Path) -> None:
    """A container's own root is an overlay already, and cannot take the changes of another one."""

    def nested(merged: Path) -> None:
        for name in ("lower", "upper", "work", "target"):
            (merged / name).mkdir()
        namespace.mount_layers([merged / "lower"], merged / "target", upper=merged / "upper", work=merged / "work")

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    with pytest.raises(DependencyError, match="cannot mount overlay on") as caught:
        layered(tmp_path, nested)
    assert "XDG_CACHE_HOME" in caught.value.hint
    assert "ext4, xfs, btrfs" in caught.value.hint


# --- the sandbox inside a tree ---------------------------------------------------------------------------------------


def in_tree(tree: Path, script: str, **options: object) -> str:
    def work() -> str:
        done = namespace.in_tree(tree, ["bash", "-c", script], capture=True, **options)  # type: ignore[arg-type]
        return done.stdout

    return namespace.run_private(work)


def test_a_sandbox_has_no_network(tree: Path) -> None:
    names = in_tree(tree, "cat /proc/net/dev")
    assert re.findall(r"^\s*(\S+):", names, re.MULTILINE) == ["lo"]
    assert "connected" not in in_tree(tree, "(echo >/dev/tcp/127.0.0.1/22) 2>/dev/null && echo connected; true")


def test_a_sandbox_sees_the_tree_and_nothing_of_the_host(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_HOST", "x")
    found = in_tree(tree, "pwd; ls /; id -u; ls /proc | while read -r n; do [[ $n == [0-9]* ]] && echo pid; done; true")
    lines = found.splitlines()
    assert lines[0] == "/"
    assert {"home", "root", "work", "sys", "boot"}.isdisjoint(lines)
    assert "0" in lines
    assert lines.count("pid") <= 4  # bwrap's own, bash, its subshell, ls
    variables = in_tree(tree, "export -p")
    assert "SECRET_OF_THE_HOST" not in variables
    assert 'HOME="/root"' in variables


def test_a_sandbox_takes_variables(tree: Path) -> None:
    assert in_tree(tree, "echo $IMAGE_OS", env={"IMAGE_OS": "debian"}) == "debian\n"


def test_a_sandbox_writes_to_the_tree_but_not_for_a_moment_only(tree: Path) -> None:
    in_tree(tree, "echo x >/etc/written; echo x >/tmp/scratch; echo x >/run/scratch")
    assert (tree / "etc/written").read_text() == "x\n"
    assert list((tree / "tmp").iterdir()) == list((tree / "run").iterdir()) == []


def test_what_is_bound_into_a_sandbox_is_read_only(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "script").write_text("on the host")
    script = "cat /run/bound; echo changed >/run/bound || echo refused; rm /run/bound || echo kept"
    assert in_tree(tree, script, binds=[(tmp_path / "script", "/run/bound")]) == "on the hostrefused\nkept\n"
    assert (tmp_path / "script").read_text() == "on the host"
    assert not (tree / "run/bound").exists()


def test_a_sandbox_may_do_what_root_does_in_its_tree(tree: Path) -> None:
    """Package scripts change owners, modes and capabilities."""
    assert in_tree(tree, "mkdir -p /var/x; cat /proc/self/status").find("CapEff:\t0000000000000000") == -1

    def own() -> int:
        namespace.in_tree(tree, ["bash", "-c", "touch /var/owned"])
        os.chown(tree / "var/owned", 7, 7)
        listed = namespace.in_tree(tree, ["stat", "-c", "%u", "/var/owned"], capture=True).stdout
        (tree / "var/owned").unlink()
        return int(listed)

    assert namespace.run_private(own) == 7


def test_a_program_that_fails_in_a_sandbox(tree: Path) -> None:
    with pytest.raises(ToolError, match="exit status 7") as caught:
        namespace.run_private(
            lambda: namespace.in_tree(tree, ["bash", "-c", "echo last words; exit 7"], what="a script")
        )
    assert caught.value.message.startswith("a script: bwrap failed")
    assert "| last words" in caught.value.message


def test_a_program_that_a_tree_lacks(tree: Path) -> None:
    with pytest.raises(ToolError, match="no-such-program: No such file or directory"):
        namespace.run_private(lambda: namespace.in_tree(tree, ["no-such-program"]))
