"""images.yaml: what is right, and what is wrong with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.bundle import images
from pipeline.bundle.images import ImageList, Wanted
from pipeline.core.errors import InputError
from pipeline.oci import Platform, Reference

DIGEST = "sha256:" + "a" * 64
AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")


def read(folder: Path, text: str) -> ImageList:
    (folder / "images.yaml").write_text(text)
    return images.load(folder / "images.yaml")


def test_short_and_long_entries(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        f"""\
platforms: [linux/amd64, linux/arm64]
release_signatures: signatures
images:
  - registry.hq:5000/platform/app:v1
  - registry.hq:5000/platform/app@{DIGEST}
  - image: registry.hq:5000/platform/tool:v2@{DIGEST}
    repository: tools/tool
    tags: [v2, latest]
    platforms: [linux/arm64/v8]
  - {{image: "registry.hq:5000/platform/quiet:v1", tags: []}}
""",
    )
    app, by_digest, tool, quiet = found.images
    both = (AMD64, ARM64)
    assert app == Wanted(Reference.parse("registry.hq:5000/platform/app:v1"), "platform/app", ("v1",), both)
    assert (by_digest.tags, by_digest.names) == ((), (f"platform/app@{DIGEST}",))
    assert (tool.repository, tool.tags, tool.is_exact) == ("tools/tool", ("v2", "latest"), True)
    assert tool.platforms == (Platform("linux", "arm64", "v8"),)
    assert (quiet.tags, quiet.is_exact) == ((), False)
    assert found.release_signatures == str(tmp_path / "signatures")


def test_all_platforms_and_a_url_for_signatures(tmp_path: Path) -> None:
    found = read(tmp_path, "images: ['a.b/c:v1']\nrelease_signatures: https://a.b/signatures\n")
    assert found.images[0].platforms is None
    assert found.release_signatures == "https://a.b/signatures"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the file is empty"),
        ("images: []", "images.yaml:1: images: "),
        ("images:\n", "images.yaml:1: images: "),
        ("images: ['a.b/c']", "images.yaml:1: images.0.image: 'a.b/c' has neither a tag nor a digest"),
        ("images:\n  - a.b/c:v1\n  - a.b/C:v1", "images.yaml:3: images.1.image: 'a.b/C:v1' is not an image's name"),
        ("images:\n  - c:v1", "images.yaml:2: images.0.image: 'c:v1' is not an image's name"),
        ("images:\n  - a.b/c@sha256:12", "'sha256:12' is not a digest"),
        ("images:\n  - 7", "images.yaml:2: images.0: "),
        ("images:\n  - image: a.b/c:v1\n    tag: v1", "images.yaml:3: images.0.tag: unknown key; did you mean 'tags'?"),
        ("images:\n  - repository: c", "images.yaml:2: images.0.image: this key is missing"),
        ("images:\n  - {image: 'a.b/c:v1', repository: A}", "'A' is not a repository"),
        ("images:\n  - {image: 'a.b/c:v1', tags: ['-']}", "images.0.tags.0: '-' is not a tag"),
        ("images:\n  - {image: 'a.b/c:v1', tags: [v1, v1]}", "images.yaml:2: images.0: a.b/c:v1: the tag v1 is there"),
        ("images:\n  - {image: 'a.b/c:v1', platforms: [amd64]}", "images.0.platforms.0: 'amd64' is not a platform"),
        ("images:\n  - {image: 'a.b/c:v1', platforms: []}", "images.0.platforms: "),
        ("platforms: [linux]\nimages: ['a.b/c:v1']", "images.yaml:1: platforms.0: 'linux' is not a platform"),
        ("imags: ['a.b/c:v1']", "imags: unknown key; did you mean 'images'?"),
        ("images:\n  - a.b/c:v1\n  - a.b/c:v1", "images.yaml:3: images.1: a.b/c:v1 is listed twice"),
        (
            "images:\n  - a.b/c:v1\n  - x.y/c:v1",
            "images.yaml:3: images.1: a.b/c:v1 and x.y/c:v1 would both be c:v1 at the site",
        ),
        (
            f"images:\n  - a.b/c:v1@{DIGEST}\n  - a.b/c:v1",
            f"images.1: a.b/c:v1@{DIGEST} and a.b/c:v1 would both be c:v1 at the site",
        ),
        (f"images:\n  - a.b/c@{DIGEST}\n  - a.b/c@{DIGEST}", "is listed twice"),
        (
            "images:\n  - {image: 'a.b/c:v1', tags: [a, b]}\n  - {image: 'a.b/d:v1', repository: c, tags: [b]}",
            "images.yaml:3: images.1: a.b/c:v1 and a.b/d:v1 would both be c:b at the site",
        ),
        ("images: ['a.b/c:v1'\n", "this is not valid YAML"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, text)
    assert said in caught.value.message
    assert caught.value.hint


def test_every_problem_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, "images:\n  - a.b/c\n  - a.b/d:v1\n  - a.b/d:v1\n")
    assert len(caught.value.message.splitlines()) == 2


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not there") as caught:
        images.load(tmp_path / "images.yaml")
    assert "registry.hq:5000" in caught.value.hint


def test_two_lists_become_one() -> None:
    def listed(*names: str) -> ImageList:
        references = [Reference.parse(name) for name in names]
        return ImageList(tuple(Wanted(one, one.repository, (one.tag or "",)) for one in references))

    assert listed("a.b/c:v1").merged(listed("a.b/c:v1", "a.b/d:v1")).images == listed("a.b/c:v1", "a.b/d:v1").images
    with pytest.raises(InputError, match="would both be c:v1"):
        listed("a.b/c:v1").merged(listed("x.y/c:v1"))
