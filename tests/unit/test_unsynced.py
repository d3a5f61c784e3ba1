"""Programs that do not wait for the disk."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pipeline.core import namespace, process, unsynced

# fsync of a pipe fails with EINVAL, unless it is never asked; so does what a shell starts.
ASKS = "import os; r, w = os.pipe(); os.{call}(w); print('never asked')"


def asked(call: str, *shell: str) -> process.Completed:
    words = [sys.executable, "-I", "-c", ASKS.format(call=call)]
    return process.run([*shell, *words], capture=True, check=False)


@pytest.mark.parametrize("call", ["fsync", "fdatasync"])
def test_a_program_waits_for_the_disk_unless_it_need_not(call: str) -> None:
    def work() -> tuple[process.Completed, ...]:
        before = asked(call)
        with process.without_sync():
            return before, asked(call), asked(call, "/usr/bin/env"), process.run(["sync"], check=False)

    before, inside, started, sync = namespace.run_private(work)
    assert before.returncode == 1
    assert (inside.returncode, inside.stdout) == (0, "never asked\n")
    assert (started.returncode, sync.returncode) == (0, 0)


def test_everything_else_works(tmp_path: Path) -> None:
    def work() -> str:
        with process.without_sync():
            process.run(["cp", "--archive", "/etc/passwd", tmp_path / "copy"])
            return process.run(["cat", tmp_path / "copy"], capture=True).stdout

    assert namespace.run_private(work) == Path("/etc/passwd").read_text()


@pytest.mark.parametrize("machine", unsynced.CALLS)
def test_a_filter_ends_in_what_is_allowed_and_what_is_answered(machine: str) -> None:
    code = unsynced._filter(machine)
    count = len(unsynced.CALLS[machine][1])
    assert len(code) == 8 * (count + 5)
    steps = [code[at : at + 8] for at in range(0, len(code), 8)]
    assert steps[1][3] == count + 1  # of another architecture: on to "allowed"
    assert [step[2] for step in steps[3:-2]] == list(range(count, 0, -1))
