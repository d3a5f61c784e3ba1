"""The comparison with peers computes and shows its numbers rightly, and writes what the peers read."""

from __future__ import annotations

import configparser
import json
import subprocess
from pathlib import Path

import pytest

from benchmarks.peers import boot, dib, floor, mkosi, plots, report, rounds, system
from benchmarks.peers.cannot import CANNOT
from benchmarks.peers.compare import Row
from benchmarks.peers.made import Made
from benchmarks.peers.recipe import Recipe
from benchmarks.peers.report import PeersReport
from benchmarks.peers.system import System
from benchmarks.report import Number
from pipeline.core.arch import Architecture
from pipeline.core.errors import ToolError

RECIPE = Recipe(
    os="debian",
    codename="bookworm",
    arch=Architecture.AMD64,
    packages=("openssh-server", "podman"),
    avoid=("gnupg", "usrmerge"),
    exclude=("/usr/share/man/*",),
    keep=("/usr/share/doc/*/copyright",),
    components=("main", "contrib"),
    sources=(
        ("http://archive.example/debian", "bookworm"),
        ("http://archive.example/debian", "bookworm-updates"),
        ("http://archive.example/security", "bookworm-security"),
    ),
    keyring="/usr/share/keyrings/example.gpg",
)


# ---------------------------------------------------------------------------------------------- ratios


@pytest.mark.parametrize(
    ("samples", "best", "ratio", "met"),
    [
        ({"we": (3.0,), "a": (6.0,), "b": (10.0,)}, "a", 0.5, True),
        ({"we": (3.0,), "a": (10.0,), "b": (4.0,)}, "b", 0.75, False),
        ({"we": (9.0, 1.0, 6.0), "a": (10.0, 10.0, 99.0)}, "a", 0.6, True),
        ({"we": (3.0,), "a": ()}, None, None, None),
        ({"we": (3.0,)}, None, None, None),
        ({"a": (3.0,), "b": (2.0,)}, "b", None, None),
        ({}, None, None, None),
    ],
)
def test_our_median_is_compared_with_the_better_peers(
    samples: dict[str, tuple[float, ...]], best: str | None, ratio: float | None, met: bool | None
) -> None:
    row = Row("cold build", "s", samples, 0.6)
    assert row.best_peer("we") == best
    assert row.ratio("we") == ratio
    assert row.met("we") is met


def test_without_a_target_nothing_is_met_or_missed() -> None:
    assert Row("packages", "", {"we": (1.0,), "a": (2.0,)}).met("we") is None


# ---------------------------------------------------------------------------------------------- report


def a_report() -> PeersReport:
    return PeersReport(
        command="./invoke benchmark --peers -n 2",
        date="2026-01-01 00:00 UTC",
        machine={"cores": "2"},
        ours="node-images",
        versions={"node-images": "abc", "mkosi": "25.3", "diskimage-builder": "3.37"},
        rows=(
            Row("cold build", "s", {"node-images": (30.0, 50.0), "mkosi": (80.0, 80.0)}, 0.6, "nothing cached"),
            Row("rebuild", "s", {"node-images": (4.0,), "mkosi": (8.0,)}, 0.1),
            Row("packages in the image", "", {"node-images": (263.0,), "mkosi": (263.0,)}),
        ),
        own=(Number("peak memory", "MB", (120.0,), 300.0),),
        floor={"cp copies a tree": 1.5},
        failures={"diskimage-builder": "its caches are filled: the measured command failed"},
        plots={"cold build": "peers-cold-build.svg"},
    )


def test_the_report_says_medians_ratios_and_what_failed() -> None:
    text = report.as_markdown(a_report())
    assert "| cold build | 40.0 s | 80.0 s |  | 0.50 | ≤ 0.6 | yes | nothing cached |" in text
    assert "| rebuild | 4.00 s | 8.00 s |  | 0.50 | ≤ 0.1 | **no** |  |" in text
    assert "| packages in the image | 263 | 263 |  | 1.00 |  |  |  |" in text
    assert "| cold build | node-images | 30.0 s, 50.0 s |" in text
    assert "**This time it failed**: its caches are filled" in text
    assert "![cold build](peers-cold-build.svg)" in text
    assert "| cp copies a tree | 1.50 s |" in text
    for sentences in CANNOT.values():
        assert all(sentence in text for sentence in sentences)


def test_the_json_has_the_same_numbers() -> None:
    document = json.loads(report.as_json(a_report()))
    cold = document["rows"][0]
    assert cold["medians"] == {"node-images": 40.0, "mkosi": 80.0, "diskimage-builder": None}
    assert (cold["ratio"], cold["met"]) == (0.5, True)
    assert document["own"][0]["met"] is True


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("E: cannot fetch http://archive.example/debian/dists\n  gone", "E: cannot fetch (an address) gone"),
        ("failed: bwrap --bind /home/me/.cache/peers/trixie /", "failed: bwrap --bind …/trixie /"),
        ("cannot resolve 'archive.example'", "cannot resolve '…'"),
        ("failed: a long command\n  | one\n  | \n  | two", "one two"),
        ("nothing to hide", "nothing to hide"),
    ],
)
def test_a_failure_names_neither_archives_nor_directories(said: str, shown: str) -> None:
    assert report.scrubbed(said, ("archive.example", "/home/me/.cache/peers")) == shown


def test_plots_have_names_that_a_link_can_hold() -> None:
    assert plots.names(["cold build", "boot"], "peers") == {
        "cold build": "peers-cold-build.svg",
        "boot": "peers-boot.svg",
    }


# ---------------------------------------------------------------------------------------------- rounds


class Fake:
    """A maker that makes a file, or fails."""

    def __init__(self, name: str, directory: Path, *, fails: bool = False) -> None:
        self.name, self.image, self.fails = name, directory / f"{name}.qcow2", fails

    def version(self) -> str:
        return "1"

    def prepare(self) -> None:
        if self.fails:
            raise ToolError("no loop devices at http://archive.example/x")

    def cold(self) -> Made:
        self.image.write_bytes(b"x" * 1000)
        return Made(2.0, self.image, 0.5)

    def rebuild(self, number: int) -> Made:
        return Made(float(number), self.image)

    def filtered(self) -> Made:
        self.image.write_bytes(b"x" * 500)
        return Made(2.0, self.image)


def test_a_peer_that_fails_is_reported_and_the_rest_goes_on(tmp_path: Path) -> None:
    makers = [Fake("node-images", tmp_path), Fake("good", tmp_path), Fake("bad", tmp_path, fails=True)]
    done = rounds.Rounds(list(makers), tmp_path / "scratch")
    done.turn("its caches are filled", lambda maker: maker.prepare())
    done.turn(rounds.COLD, done.cold)
    for number in (1, 2):
        done.turn(rounds.REBUILD, lambda maker, number=number: done.rebuild(maker, number))  # type: ignore[misc]
    assert done.failures == {"bad": "its caches are filled: no loop devices at (an address)"}
    assert done.samples[rounds.COLD] == {"node-images": (2.0,), "good": (2.0,)}
    assert done.samples[rounds.REBUILD]["good"] == (1.0, 2.0)
    done.turn(rounds.FILTERED, done.filtered)
    assert done.samples[rounds.SIZE]["good"] == (0.001, 0.001)
    assert done.samples[rounds.FILTERED]["good"] == (0.0005,)
    titles = ["cold build", "rebuild", "image", "cold build: of these, qemu-img", rounds.FILTERED]
    assert [row.title for row in done.rows()] == titles
    assert [row.target for row in done.rows()] == [0.6, 0.1, 0.8, None, None]


def test_our_own_failure_is_not_hidden(tmp_path: Path) -> None:
    done = rounds.Rounds([Fake("node-images", tmp_path, fails=True)], tmp_path)
    with pytest.raises(ToolError, match="no loop devices"):
        done.turn("its caches are filled", lambda maker: maker.prepare())


# ---------------------------------------------------------------------------------------------- what peers read


def test_the_recipe_knows_where_things_lie() -> None:
    assert RECIPE.archive == "http://archive.example/debian"
    assert RECIPE.security == "http://archive.example/security"
    assert RECIPE.hosts() == {"archive.example"}
    assert RECIPE.source_list().count("Types: deb\n") == 3
    assert RECIPE.path_filters() == "path-exclude=/usr/share/man/*\npath-include=/usr/share/doc/*/copyright\n"
    assert RECIPE.path_filters(without="/usr/share/man") == "path-include=/usr/share/doc/*/copyright\n"
    assert "Package: gnupg usrmerge\n" in RECIPE.refusals()
    assert "Package: usrmerge\n" in RECIPE.refusals(without=("gnupg",))


def test_mkosi_is_asked_for_the_profiles_packages() -> None:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[method-assign,assignment]
    parser.read_string(mkosi.configuration(RECIPE))
    assert parser["Content"]["Packages"].split() == ["openssh-server", "podman"]
    assert parser["Distribution"]["Release"] == "bookworm"
    assert parser["Output"]["SectorSize"] == "512"
    assert sorted(mkosi.partitions()) == ["00-esp.conf", "05-bios.conf", "10-root.conf"]


def test_diskimage_builder_is_asked_for_the_profiles_packages() -> None:
    files = dib.element(RECIPE, filtered=False)
    assert files["package-installs.yaml"] == "openssh-server:\npodman:\n"
    assert "path-exclude" not in files["root.d/10-node"]
    assert "path-exclude=/usr/share/man/*\n" in dib.element(RECIPE, filtered=True)["root.d/10-node"]
    assert "Package: usrmerge\n" in files["root.d/10-node"]  # gnupg is installed by its own element
    checked = subprocess.run(["bash", "-n"], input=files["root.d/10-node"], text=True, check=False)
    assert checked.returncode == 0
    settings = dib.environment(RECIPE)
    assert settings["DIB_DEBIAN_SECURITY_MIRROR"] == "http://archive.example/security"
    assert (
        "bookworm-security:deb http://archive.example/security bookworm-security main contrib"
        in settings["DIB_APT_SOURCES_CONF"].splitlines()
    )


@pytest.mark.parametrize(("text", "expected"), [("nodev\tproc\n\tvfat\n", True), ("\text4\nnodev\tvfat\n", True)])
def test_a_kernel_that_has_vfat_is_known(text: str, expected: bool) -> None:
    assert dib.has_vfat(text) is expected


def test_the_floor_installs_the_same(tmp_path: Path) -> None:
    words = floor.bootstrap(RECIPE, Path("/packages"), tmp_path / "tree", tmp_path)
    assert "--include=openssh-server,podman" in words
    assert "--dpkgopt=path-exclude=/usr/share/man/*" in words
    assert words[-3:] == ["", str(tmp_path / "tree"), str(tmp_path / "sources")]


# ---------------------------------------------------------------------------------------------- their system


def test_programs_run_in_namespaces_of_their_own(tmp_path: Path) -> None:
    words = System(tmp_path / "tree").command(
        tmp_path, ["mkosi", "build"], env={"X": "y"}, binds=[(tmp_path / "a", "/b")]
    )
    assert words[-3:] == ["--", "mkosi", "build"]
    text = " ".join(words)
    assert f"--bind {tmp_path / 'tree'} /" in text
    assert f"--ro-bind {tmp_path / 'a'} /b" in text
    assert "--setenv X y" in text
    assert "--unshare-pid" in text
    assert "--die-with-parent" in text


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        ({}, []),
        ({"/dev/loop0": "/somebody/else.img"}, []),
        ({"/dev/loop0": "/image0.raw"}, []),  # it was there before
        ({"/dev/loop3": "/image0.raw (deleted)", "/dev/loop4": "/image0.raw"}, ["/dev/loop3", "/dev/loop4"]),
        ({"/dev/loop3": "/tmp/x/image0.raw", "/dev/loop5": "/image1.raw"}, ["/dev/loop3"]),
    ],
)
def test_only_loop_devices_of_the_peer_are_removed(now: dict[str, str], expected: list[str]) -> None:
    assert system.left_over({"/dev/loop0"}, now) == expected


@pytest.mark.parametrize(("text", "expected"), [("263\n 512000\n", (263, 512000)), ("1 2", (1, 2))])
def test_facts_of_a_booted_image_are_read(text: str, expected: tuple[int, int]) -> None:
    assert boot.read_facts(text) == expected
