"""The journal of a sync: a hint that survives being torn, and is never another one's."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import resource
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.bundle import journal
from pipeline.bundle.model import FULL, PLAIN, Bundle
from pipeline.core.errors import StorageError

HOST = "registry.site.example:5000"
ONE, OTHER = (f"sha256:{letter * 64}" for letter in "ab")


def bundle(name: str = "v1") -> Bundle:
    return Bundle(FULL, name, "2026-11-25T03:00:00Z", PLAIN, (), ())


def path(folder: Path, which: Bundle) -> Path:
    return folder / f"{which.id.partition(':')[2]}.jsonl"


class KilledError(Exception):
    """Stands for whatever ends a sync."""


def interrupted(folder: Path, *, host: str = HOST, which: Bundle | None = None) -> None:
    """Leave a journal as a sync does that was interrupted."""
    with pytest.raises(KilledError), journal.opened(folder, host, which or bundle()) as notes:
        notes.begin("platform/app", ONE, "https://site/one")
        notes.begin("platform/app", ONE, "https://site/one-again")
        notes.begin("platform/app", OTHER, "https://site/other")
        notes.finish_blob("platform/app", OTHER)
        notes.finish_image("platform/app", OTHER)
        assert notes.begun("platform/app", OTHER) is None
        raise KilledError


def begun(folder: Path, *, host: str = HOST, which: Bundle | None = None) -> list[str | None]:
    """Return what the next sync finds, which is interrupted too."""
    found: list[str | None] = []
    with pytest.raises(KilledError), journal.opened(folder, host, which or bundle()) as notes:
        found += [notes.begun("platform/app", ONE), notes.begun("platform/app", OTHER)]
        assert notes.begun("platform/web", ONE) is None
        raise KilledError
    return found


def test_the_next_sync_goes_on(tmp_path: Path) -> None:
    interrupted(tmp_path)
    assert begun(tmp_path) == ["https://site/one-again", None]
    lines = [json.loads(line) for line in path(tmp_path, bundle()).read_bytes().splitlines()]
    assert lines[0] == {"version": 1, "bundle": bundle().id, "host": HOST}
    assert [sorted(line) for line in lines[1:]] == [["digest", "location", "repository"]] * 3 + [
        ["blob", "repository"],
        ["image", "repository"],
    ]


def test_a_finished_sync_leaves_what_the_bundle_was(tmp_path: Path) -> None:
    interrupted(tmp_path)
    with journal.opened(tmp_path, HOST, bundle()):
        pass
    (left,) = tmp_path.iterdir()
    assert left.name == f"v1-{bundle().id[7:19]}.bundle.json"
    assert Bundle.from_bytes(left.read_bytes()) == bundle()
    assert begun(tmp_path) == [None, None]


@pytest.mark.parametrize("torn", [1, 10, 60])
def test_a_torn_last_line_is_no_harm(tmp_path: Path, torn: int) -> None:
    interrupted(tmp_path)
    file = path(tmp_path, bundle())
    file.write_bytes(file.read_bytes()[:-torn])
    assert begun(tmp_path)[0] == "https://site/one-again"
    with pytest.raises(KilledError), journal.opened(tmp_path, HOST, bundle()) as notes:
        notes.begin("platform/app", OTHER, "https://site/anew")
        raise KilledError
    assert begun(tmp_path) == ["https://site/one-again", "https://site/anew"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"\0" * 100,
        b'["a list"]\n',
        b'{"version": 2}\n{"repository": "platform/app", "digest": "%s", "location": "x"}\n' % ONE.encode(),
    ],
)
def test_what_is_no_journal_is_begun_anew(tmp_path: Path, content: bytes) -> None:
    path(tmp_path, bundle()).write_bytes(content)
    assert begun(tmp_path) == [None, None]
    interrupted(tmp_path)
    assert begun(tmp_path)[0] == "https://site/one-again"


def test_another_bundle_or_registry_is_another_journal(tmp_path: Path) -> None:
    interrupted(tmp_path)
    assert begun(tmp_path, which=bundle("v2")) == [None, None]
    assert begun(tmp_path)[0] == "https://site/one-again"
    path(tmp_path, bundle("v2")).write_bytes(path(tmp_path, bundle()).read_bytes())
    assert begun(tmp_path, which=bundle("v2")) == [None, None]
    assert begun(tmp_path, host="other.example") == [None, None]


def _hold(folder: Path, is_held: threading.Event, may_go: threading.Event) -> None:
    with journal.opened(folder, HOST, bundle()):
        is_held.set()
        may_go.wait(60)


def test_two_syncs_take_turns(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    is_held, may_go = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path, is_held, may_go))
    other.start()
    assert is_held.wait(60)
    with journal.opened(tmp_path, HOST, bundle("v2")) as notes:
        assert not notes.has_waited
    threading.Timer(0.2, may_go.set).start()
    with journal.opened(tmp_path, HOST, bundle()) as notes:  # whose file the other one removed
        assert notes.has_waited
        assert may_go.is_set()
    other.join()
    assert other.exitcode == 0
    assert not path(tmp_path, bundle()).exists()


@contextlib.contextmanager
def _no_more_than(size: int) -> Iterator[None]:
    """Let files of this process grow no further: a write fails as it does on a full disk (setrlimit(2))."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_stops_no_sync(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KilledError), journal.opened(tmp_path, HOST, bundle()) as notes:
        with _no_more_than(path(tmp_path, bundle()).stat().st_size):
            notes.begin("platform/app", ONE, "https://site/one")
            notes.begin("platform/app", OTHER, "https://site/one")
        assert notes.begun("platform/app", ONE) == "https://site/one"
        raise KilledError
    assert capsys.readouterr().err.count("File too large") == 1
    assert begun(tmp_path) == [None, None]


def test_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file") as caught, journal.opened(tmp_path / "file/x", HOST, bundle()):
        pass
    assert "--state" in caught.value.hint


@pytest.mark.parametrize(
    ("state", "wanted"), [("/srv/state", "/srv/state"), ("", "~/.local/state"), ("x", "~/.local/state")]
)
def test_where_the_state_lies(monkeypatch: pytest.MonkeyPatch, state: str, wanted: str) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", state)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert str(journal.state_directory()) == wanted.replace("~", "/home/somebody") + "/node-images/sync"
