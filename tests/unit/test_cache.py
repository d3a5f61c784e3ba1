"""Keys, differences, misses, damage and eviction of the content cache, in one process."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipeline.core import cache, progress
from pipeline.core.cache import Cache, Json, allocated, cache_root, difference, key_of
from pipeline.core.errors import StorageError, ToolError

if TYPE_CHECKING:
    from collections.abc import Callable

MANY = 200_000


def filling(text: str = "content", size: int = 0) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        (path / "made").write_text(text)
        (path / "bulk").write_bytes(os.urandom(size))

    return make


def not_called(path: Path) -> None:
    raise AssertionError(f"made again in {path}")


def left_over(root: Path) -> list[str]:
    return [path.name for path in (root / ".tmp").iterdir()]


def used_at(root: Path, inputs: dict[str, Json], seconds: int) -> None:
    os.utime(root / "base" / key_of("base", inputs) / "meta.json", (seconds, seconds))


def test_key_is_pinned() -> None:
    """A changed algorithm would silently empty every user's cache."""
    assert key_of("base", {"packages": ["a", "é"], "n": 1}) == (
        "e4746f972bf7baaddc6ace5c490de8822cb11971f6be9135c88fa1f6d64ddcae"
    )


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        ({"a": {"x": 1, "y": 2}}, {"a": {"y": 2, "x": 1}}, True),
        ({"a": ("x", "y")}, {"a": ["x", "y"]}, True),
        ({"a": ["x", "y"]}, {"a": ["y", "x"]}, False),
        ({"a": 1}, {"a": "1"}, False),
        ({"a": 1}, {"a": True}, False),
        ({"a": None}, {}, False),
        ({"a": "x"}, {"b": "x"}, False),
        ({"a": []}, {"a": {}}, False),
    ],
)
def test_keys(one: dict[str, Json], other: dict[str, Json], same: bool) -> None:
    assert (key_of("base", one) == key_of("base", other)) is same
    assert key_of("base", one) != key_of("tree", one)


@pytest.mark.parametrize("kind", ["", ".tmp", "a/b", "..", "Base", "a b", "-a"])
def test_kinds_that_are_no_names(kind: str) -> None:
    with pytest.raises(ValueError, match="not a name"):
        key_of(kind, {})


@pytest.mark.parametrize(
    ("inputs", "error"), [({"a": float("nan")}, ValueError), ({"a": {"set"}}, TypeError), ({"a": Path("/")}, TypeError)]
)
def test_inputs_that_have_no_json(inputs: dict[str, Json], error: type[Exception]) -> None:
    with pytest.raises(error):
        key_of("base", inputs)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"codename": "x"}, {"codename": "y"}, [(1, "codename 'x' -> 'y'")]),
        ({"n": 1}, {"n": None}, [(1, "n 1 -> null")]),
        ({"n": 1}, {"n": True}, [(1, "n 1 -> true")]),
        ({"packages": ["a", "bar"]}, {"packages": ["a", "foo"]}, [(2, "packages +foo -bar")]),
        ({"packages": ["a", "b"]}, {"packages": ["b", "a"]}, [(1, "packages in another order")]),
        ({"packages": ["a"]}, {"packages": ["a", "a"]}, [(1, "packages in another order")]),
        ({"packages": []}, {"packages": ["a"]}, [(1, "packages +a")]),
        ({"packages": [1]}, {"packages": ["1"]}, [(2, "packages +1 -1")]),
        ({}, {"locale": "C"}, [(1, "+locale 'C'")]),
        ({"packages": ["a", "b"]}, {}, [(1, "-packages (2 items)")]),
        ({"packages": ["a"]}, {"packages": "a"}, [(1, "packages (1 items) -> 'a'")]),
        ({"os": {"codename": "x", "arch": "amd64"}}, {"os": {"codename": "y", "arch": "amd64"}},
         [(1, "os.codename 'x' -> 'y'")]),
        ({"repos": [{"url": "a"}, {"url": "b"}]}, {"repos": [{"url": "a"}, {"url": "c"}]},
         [(1, "repos[1].url 'b' -> 'c'")]),
        ({"sha": "0" * 64}, {"sha": "1" * 64}, [(1, f"sha '{'0' * 20}…' -> '{'1' * 20}…'")]),
        ({"p": []}, {"p": [str(n) for n in range(10)]}, [(10, "p +0 +1 +2 +3 +4 +5 +6 +7 (2 more)")]),
        ({"b": 1, "a": 1}, {"b": 2, "a": 2}, [(1, "a 1 -> 2"), (1, "b 1 -> 2")]),
    ],
)  # fmt: skip
def test_differences(old: dict[str, Json], new: dict[str, Json], expected: list[tuple[int, str]]) -> None:
    assert difference(old, new) == expected


@pytest.mark.parametrize(
    ("xdg", "expected"),
    [("/var/x", "/var/x/node-images"), ("", "/home/me/.cache/node-images"), ("rel", "/home/me/.cache/node-images")],
)
def test_cache_root(monkeypatch: pytest.MonkeyPatch, xdg: str, expected: str) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", xdg)
    monkeypatch.setenv("HOME", "/home/me")
    assert cache_root() == Path(expected)


def test_made_once_and_found_again(tmp_path: Path) -> None:
    with Cache(tmp_path / "new" / "cache") as store:
        made = store.obtain("base", {"n": 1}, filling())
        again = store.obtain("base", {"n": 1}, not_called)
    assert (made.hit, again.hit) == (False, True)
    assert made.path == again.path == tmp_path / "new/cache/base" / made.key / "data"
    assert (made.path / "made").read_text() == "content"
    assert (made.path.parent / "inputs.json").read_text() == '{\n  "n": 1\n}\n'
    assert stat.S_IMODE((tmp_path / "new/cache").stat().st_mode) == 0o700
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o755
    assert left_over(tmp_path / "new/cache") == []


def test_a_cache_behind_a_symlink(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with Cache(tmp_path / "link") as store:
        assert store.obtain("base", {}, filling()).path.is_relative_to(tmp_path / "real")


@pytest.mark.parametrize("error", [ToolError("no"), OSError("no"), KeyboardInterrupt()])
def test_a_failed_make_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    def fail(path: Path) -> None:
        filling()(path)
        (path / "locked").mkdir(mode=0)
        raise error

    with Cache(tmp_path) as store:
        with pytest.raises(type(error)) as caught:
            store.obtain("base", {}, fail)
        assert caught.value is error
        assert left_over(tmp_path) == []
        assert store.entries() == ()
        assert not store.obtain("base", {}, filling()).hit


def test_fresh_replaces(tmp_path: Path) -> None:
    with Cache(tmp_path) as store:
        store.obtain("base", {}, filling("old"))
    with Cache(tmp_path) as store:
        new = store.obtain("base", {}, filling("new"), fresh=True)
        assert ((new.path / "made").read_text(), new.hit) == ("new", False)
        assert (len(store.entries()), left_over(tmp_path)) == (1, [])


def test_a_failed_fresh_keeps_the_old(tmp_path: Path) -> None:
    with Cache(tmp_path) as store:
        store.obtain("base", {}, filling("old"))
        with pytest.raises(AssertionError):
            store.obtain("base", {}, not_called, fresh=True)
        assert (store.obtain("base", {}, not_called).path / "made").read_text() == "old"


def said(log: Path) -> str:
    return log.read_text().splitlines()[-1].split(" ", 1)[1]


def test_a_miss_tells_the_nearest_entry(tmp_path: Path) -> None:
    log = tmp_path / "log"
    near: dict[str, Json] = {"codename": "x", "packages": ["a", "bar"]}
    with progress.session(log), Cache(tmp_path / "cache") as store:
        store.obtain("base", near, filling())
        assert said(log) == "base: not cached"
        store.obtain("base", {"codename": "z", "packages": ["q"], "more": 1}, filling())
        store.obtain("tree", {"codename": "y", "packages": ["a", "foo"]}, filling())
        assert said(log) == "tree: not cached"
        [created] = [entry.created for entry in store.entries() if entry.key == key_of("base", near)]
        store.obtain("base", {"codename": "y", "packages": ["a", "foo"]}, filling())
        assert said(log) == (
            f"base: not cached; differs from the nearest entry ({created:%Y-%m-%d %H:%M}) in: "
            "codename 'x' -> 'y'; packages +foo -bar"
        )
        store.obtain("base", near, filling(), fresh=True)
        assert said(log) == "base: made anew, as asked"


def test_a_long_difference_is_cut_for_the_user_only(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with progress.session(log), Cache(tmp_path / "cache") as store:
        store.obtain("base", {f"k{n}": 0 for n in range(9)}, filling())
        store.obtain("base", {f"k{n}": 1 for n in range(9)}, filling())
    assert said(log).endswith("k4 0 -> 1; and 4 more")
    assert "k8 0 -> 1" in log.read_text()


def broken_meta(entry: Path) -> None:
    (entry / "meta.json").write_text("{")


def empty_meta(entry: Path) -> None:
    (entry / "meta.json").write_text("{}")


def meta_of_another_type(entry: Path) -> None:
    (entry / "meta.json").write_text("[]")


def no_meta(entry: Path) -> None:
    (entry / "meta.json").unlink()


def no_inputs(entry: Path) -> None:
    (entry / "inputs.json").unlink()


def binary_inputs(entry: Path) -> None:
    (entry / "inputs.json").write_bytes(b"\xff\xfe\x00")


def inputs_of_another_type(entry: Path) -> None:
    (entry / "inputs.json").write_text("[]")


def other_inputs(entry: Path) -> None:
    (entry / "inputs.json").write_text('{"n": 2}')


def no_content(entry: Path) -> None:
    (entry / "data" / "made").unlink()
    (entry / "data" / "bulk").unlink()
    (entry / "data").rmdir()


@pytest.mark.parametrize(
    "damage",
    [
        broken_meta, empty_meta, meta_of_another_type, no_meta,
        no_inputs, binary_inputs, inputs_of_another_type, other_inputs, no_content,
    ],
)  # fmt: skip
def test_a_damaged_entry_is_made_again(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    log = tmp_path / "log"
    with Cache(tmp_path / "cache") as store:
        entry = store.obtain("base", {"n": 1}, filling("old"))
    damage(entry.path.parent)
    with progress.session(log), Cache(tmp_path / "cache") as store:
        assert store.entries() == ()
        again = store.obtain("base", {"n": 1}, filling("new"))
        assert ((again.path / "made").read_text(), again.hit) == ("new", False)
        assert len(store.entries()) == 1
        assert left_over(tmp_path / "cache") == []
    assert f"the cached entry {entry.key[:12]} is damaged" in log.read_text()


@pytest.mark.parametrize(
    ("limit", "hit", "kept"),
    [
        (10 * MANY, None, {0, 1, 2, 3}),
        (3 * MANY + MANY // 2, None, {1, 2, 3}),
        (3 * MANY + MANY // 2, 0, {0, 2, 3}),  # found just now, so it is no longer the oldest; 1 is
        (2 * MANY + MANY // 2, None, {2, 3}),
        (1, None, {3}),  # in use, so it stays however small the limit
    ],
)
def test_the_least_recently_used_goes_first(tmp_path: Path, limit: int, hit: int | None, kept: set[int]) -> None:
    with Cache(tmp_path) as store:
        for number in range(3):
            store.obtain("base", {"n": number}, filling(size=MANY))
    for number in range(3):
        used_at(tmp_path, {"n": number}, 1000 + number)
    if hit is not None:
        with Cache(tmp_path) as store:
            store.obtain("base", {"n": hit}, not_called)
    with Cache(tmp_path, limit) as store:
        store.obtain("base", {"n": 3}, filling(size=MANY))
        assert {entry.inputs["n"] for entry in store.entries()} == kept
        assert left_over(tmp_path) == []


def test_listing_is_oldest_first_with_sizes(tmp_path: Path) -> None:
    with Cache(tmp_path) as store:
        for number in (1, 2):
            store.obtain("base", {"n": number}, filling(size=MANY))
        used_at(tmp_path, {"n": 2}, 1000)
        assert [(entry.kind, entry.inputs["n"]) for entry in store.entries()] == [("base", 2), ("base", 1)]
        assert all(MANY <= entry.size < 2 * MANY for entry in store.entries())
        assert store.entries()[0].last_used.timestamp() == 1000


def test_clear_spares_what_is_in_use(tmp_path: Path) -> None:
    with Cache(tmp_path) as store:
        store.obtain("base", {"n": 1}, filling(size=MANY))
        no_meta(store.obtain("base", {"n": 2}, filling(size=MANY)).path.parent)
    with Cache(tmp_path) as store:
        used = store.obtain("base", {"n": 3}, filling(size=MANY))
        assert 2 * MANY <= store.clear() < 3 * MANY
        assert used.path.exists()
        assert len(list((tmp_path / "base").iterdir())) == 1
    with Cache(tmp_path) as store:
        assert MANY <= store.clear() < 2 * MANY
        assert list((tmp_path / "base").iterdir()) == []


def test_workspace_is_private_and_removed(tmp_path: Path) -> None:
    with Cache(tmp_path) as store:
        with store.workspace() as one, store.workspace() as two:
            assert one != two
            assert list(one.iterdir()) == []
            assert stat.S_IMODE(one.stat().st_mode) == 0o700
            assert one.stat().st_dev == tmp_path.stat().st_dev
            filling()(one)
            assert store.clear() == 0
            assert (one / "made").exists()
        assert left_over(tmp_path) == []


@pytest.mark.parametrize("place", ["a file", "below a file"])
def test_a_root_that_cannot_be_used(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    root = tmp_path / "file" if place == "a file" else tmp_path / "file" / "cache"
    with pytest.raises(StorageError, match="cannot be used") as caught, Cache(root):
        pass
    assert "XDG_CACHE_HOME" in caught.value.hint


def test_allocated_counts_what_the_disk_gives(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(os.urandom(MANY))
    alone = allocated(tmp_path)
    (tmp_path / "same").hardlink_to(tmp_path / "one")
    (tmp_path / "link").symlink_to("one")
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(100 * MANY)
    assert MANY <= alone <= allocated(tmp_path) < alone + MANY


def test_limits_are_those_of_the_design() -> None:
    assert cache.DEFAULT_LIMIT == 20 * 2**30
