"""Programs that do not wait for the disk."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pipeline.core import namespace, process, unsynced
from pipeline.core.errors import ToolError

# fsync of a pipe fails with EINVAL, unless it is never asked; so does what a shell starts.
ASKS = "import os; r, w = os.pipe(); os.{call}(w); print('never asked')"


def asked(call: str, *shell: str, sync: bool) -> process.Completed:
    words = [sys.executable, "-I", "-c", ASKS.format(call=call)]
    return process.run([*shell, *words], capture=True, check=False, sync=sync)


@pytest.mark.parametrize("call", ["fsync", "fdatasync"])
def test_a_program_waits_for_the_disk_unless_it_need_not(call: str) -> None:
    def work() -> tuple[process.Completed, ...]:
        return asked(call, sync=True), asked(call, sync=False), asked(call, "/usr/bin/env", sync=False)

    before, inside, started = namespace.run_private(work)
    assert before.returncode == 1
    assert (inside.returncode, inside.stdout) == (0, "never asked\n")
    assert started.returncode == 0


def test_everything_else_works(tmp_path: Path) -> None:
    def work() -> str:
        process.run(["cp", "--archive", "/etc/passwd", tmp_path / "copy"], sync=False)
        return process.run(["cat", tmp_path / "copy"], capture=True, sync=False).stdout

    assert namespace.run_private(work) == Path("/etc/passwd").read_text()


def test_what_went_wrong_is_told_of_the_program_itself() -> None:
    done = process.run(["bash", "-c", "echo no >&2; exit 7"], sync=False, check=False)
    assert (done.returncode, done.tail, done.argv[0]) == (7, ("no",), "bash")
    with pytest.raises(ToolError, match="no-such-program: No such file or directory"):
        process.run(["no-such-program"], sync=False)


@pytest.mark.parametrize("machine", unsynced.CALLS)
def test_a_filter_ends_in_what_is_allowed_and_what_is_answered(machine: str) -> None:
    code = unsynced._filter(machine)
    count = len(unsynced.CALLS[machine][1])
    assert len(code) == 8 * (count + 5)
    steps = [code[at : at + 8] for at in range(0, len(code), 8)]
    assert steps[1][3] == count + 1  # of another architecture: on to "allowed"
    assert [step[2] for step in steps[3:-2]] == list(range(count, 0, -1))
