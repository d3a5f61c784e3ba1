"""The one door to other programs, opened for real ones."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.core import process, progress
from pipeline.core.errors import DependencyError, StorageError, ToolError

REPOSITORY = Path(__file__).parents[2]


def shell(script: str) -> list[str]:
    return ["sh", "-c", script]


# --- output and input --------------------------------------------------------------------------------------


def test_capture() -> None:
    done = process.run(shell("echo out; echo err >&2"), capture=True)
    assert (done.stdout, done.returncode, done.tail) == ("out\n", 0, ("err",))
    assert done.argv == ("sh", "-c", "echo out; echo err >&2")


def test_output_goes_to_the_log_as_it_comes(tmp_path: Path) -> None:
    log = tmp_path / "log"
    seen_while_running: list[str] = []
    with progress.session(log):
        done = process.run(
            shell("echo out; echo err >&2"), on_line=lambda _: seen_while_running.append(log.read_text())
        )
        process.run(shell("echo captured; echo beside >&2"), capture=True)
    assert done.stdout == ""
    assert "out" in seen_while_running[0]
    lines = [line.partition(" ")[2] for line in log.read_text().splitlines()]
    assert lines == ["$ sh -c 'echo out; echo err >&2'", "out", "err",
                     "$ sh -c 'echo captured; echo beside >&2'", "beside"]  # fmt: skip


def test_more_output_than_a_pipe_holds_on_both_sides() -> None:
    script = "import sys; sys.stderr.write('e' * 300_000 + '\\n'); sys.stdout.write('o' * 300_000)"
    done = process.run([sys.executable, "-c", script], capture=True)
    assert done.stdout == "o" * 300_000


@pytest.mark.parametrize("capture", [True, False])
def test_more_input_than_a_pipe_holds(capture: bool) -> None:
    text = "zeile ü\n" * 100_000
    done = process.run(["cat"], stdin=text, capture=capture)
    assert done.stdout == (text if capture else "")
    assert done.tail == (() if capture else ("zeile ü",) * process.TAIL_LINES)


def test_input_that_nobody_reads_is_no_failure() -> None:
    assert process.run(["true"], stdin="x" * 1_000_000).returncode == 0


def test_without_input_there_is_an_empty_one() -> None:
    assert process.run(["cat"], capture=True).stdout == ""


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    with progress.session(tmp_path / "log"):
        assert process.run(["printf", r"a\377b\n"], capture=True).stdout == "a\ufffdb\n"
        process.run(["printf", r"a\377b\n"])
    assert "a\ufffdb" in (tmp_path / "log").read_text(encoding="utf-8")


def test_every_update_of_a_progress_bar_is_a_line() -> None:
    lines: list[str] = []
    process.run(["printf", r"10%%\r20%%\rdone\n"], on_line=lines.append)
    assert lines == ["10%", "20%", "done"]


def test_working_directory(tmp_path: Path) -> None:
    assert process.run(["pwd"], cwd=tmp_path, capture=True).stdout == f"{tmp_path.resolve()}\n"


def test_paths_are_arguments_as_they_are(tmp_path: Path) -> None:
    odd = tmp_path / "a b;$(false)*"
    odd.write_text("inside")
    assert process.run(["cat", odd], capture=True).stdout == "inside"


# --- environment -------------------------------------------------------------------------------------------


def test_nothing_of_the_host_gets_in(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LD_PRELOAD_X", "TMPDIR", "LC_MESSAGES", "SOURCE_DATE_EPOCH", "http_proxy", "SSL_CERT_FILE"):
        monkeypatch.setenv(name, "host")
    names = {line.partition("=")[0] for line in process.run(["env"], capture=True).stdout.splitlines()}
    assert names == {"PATH", "LANG", "LC_ALL", "TZ", "HOME"}


def test_what_is_added_gets_in_and_wins() -> None:
    out = process.run(["env"], env={"LANG": "de_DE", "NEW": "1"}, capture=True).stdout.splitlines()
    assert {"LANG=de_DE", "NEW=1"} <= set(out)


def test_network_settings_only_where_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy.invalid:3128")
    monkeypatch.setenv("SSL_CERT_FILE", "/etc/ca.pem")
    out = process.run(["env"], network=True, capture=True).stdout.splitlines()
    assert {"https_proxy=http://proxy.invalid:3128", "SSL_CERT_FILE=/etc/ca.pem"} <= set(out)
    assert not any(line.startswith(("USER=", "PWD=", "SHELL=")) for line in out)


# --- failure -----------------------------------------------------------------------------------------------


def test_a_failure_shows_the_command_and_its_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "log"
    script = "seq 100; echo 'it broke' >&2; exit 3"
    with progress.session(log), pytest.raises(ToolError) as caught:
        process.run(shell(script), what="counting")
    lines = caught.value.message.splitlines()
    assert lines[0] == "counting: sh failed with exit status 3"
    assert lines[1] == f"  $ sh -c {shlex.quote(script)}"
    assert lines[2:] == [f"  | {number}" for number in range(87, 101)] + ["  | it broke"]
    assert caught.value.hint == f"the full log is {log}"


def test_a_failure_of_a_captured_program_shows_its_errors() -> None:
    with pytest.raises(ToolError) as caught:
        process.run(shell("echo data; echo 'it broke' >&2; exit 1"), capture=True)
    assert "  | it broke" in caught.value.message
    assert "data" not in caught.value.message.splitlines()[2:]


def test_the_shown_command_can_be_pasted(tmp_path: Path) -> None:
    odd = tmp_path / 'it\'s a "file" $HOME'
    with pytest.raises(ToolError) as caught:
        process.run(["ls", odd])
    command = caught.value.message.splitlines()[1].removeprefix("  $ ")
    again = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert again.returncode != 0
    assert "$HOME" in again.stderr


def test_a_signal_is_named() -> None:
    with pytest.raises(ToolError, match=f"sh was ended by signal {signal.SIGTERM.value}"):
        process.run(shell("kill -TERM $$"))


def test_failure_may_be_an_answer() -> None:
    assert process.run(["false"], check=False).returncode == 1


@pytest.mark.parametrize("capture", [True, False])
def test_a_full_disk_is_a_storage_error(capture: bool) -> None:
    with pytest.raises(StorageError, match="No space left on device") as caught:
        process.run(["dd", "if=/dev/zero", "of=/dev/full", "bs=1k", "count=1"], capture=capture)
    assert "free some space" in caught.value.hint


@pytest.mark.parametrize("run", [process.run, process.attach])
def test_a_missing_program(run: object) -> None:
    assert callable(run)
    with pytest.raises(DependencyError, match="program 'no-such-program' is not installed") as caught:
        run(["no-such-program", "x"])
    assert "./invoke" in caught.value.hint


def test_a_missing_directory_is_not_a_missing_program(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match=rf"true cannot be started: No such file or directory: {tmp_path}/absent"):
        process.run(["true"], cwd=tmp_path / "absent")


@pytest.mark.parametrize(("mode", "content", "reason"), [(0o644, "#!/bin/sh\n", "Permission denied"),
                                                         (0o755, "\x7fELF", "Exec format error")])  # fmt: skip
def test_a_program_that_cannot_be_started(tmp_path: Path, mode: int, content: str, reason: str) -> None:
    program = tmp_path / "program"
    program.write_text(content)
    program.chmod(mode)
    with pytest.raises(ToolError, match=f"{program} cannot be started: {reason}"):
        process.run([program])


def test_an_interrupt_takes_the_program_along() -> None:
    script = (
        "import sys; from pipeline.core import process\n"
        "process.run(['sh', '-c', 'echo $$; exec sleep 60'], on_line=lambda line: print(line, flush=True))"
    )
    with subprocess.Popen([sys.executable, "-c", script], cwd=REPOSITORY, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL) as child:  # fmt: skip
        assert child.stdout is not None
        sleeper = int(child.stdout.readline())
        child.send_signal(signal.SIGINT)
        assert child.wait(10) != 0
    deadline = time.monotonic() + 5
    while Path(f"/proc/{sleeper}").exists() and "Z" not in Path(f"/proc/{sleeper}/stat").read_text().split()[2]:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_no_descriptor_is_left_open() -> None:
    process.run(["true"])
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        process.run(["cat"], stdin="x", capture=True)
        process.run(["echo"])
    deadline = time.monotonic() + 2
    while len(os.listdir("/proc/self/fd")) > before and time.monotonic() < deadline:
        time.sleep(0.01)  # the thread that feeds the input closes its end
    assert len(os.listdir("/proc/self/fd")) == before


# --- beside us, and with the terminal ----------------------------------------------------------------------


def test_background(tmp_path: Path) -> None:
    output = tmp_path / "output"
    with process.background(shell("echo begun; exec sleep 60"), output=output) as child:
        deadline = time.monotonic() + 5
        while "begun" not in output.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert child.poll() is None
    assert child.returncode == -signal.SIGKILL
    with pytest.raises(DependencyError), process.background(["no-such-program"], output=output):
        pass


def test_attach(capfd: pytest.CaptureFixture[str]) -> None:
    assert process.attach(shell("echo shown; exit 3")) == 3
    assert capfd.readouterr().out == "shown\n"


def test_require() -> None:
    assert process.require("sh", hint="").endswith("/sh")
    with pytest.raises(DependencyError, match="program 'no-such-program' is not installed") as caught:
        process.require("no-such-program", hint="get it")
    assert caught.value.hint == "get it"
