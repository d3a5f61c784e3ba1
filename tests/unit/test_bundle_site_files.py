"""What nodes are given to find a bundle's images: read back by TOML and YAML, and by podman."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.bundle import site_files
from pipeline.bundle.model import FULL, PLAIN, Bundle, Image
from pipeline.core.errors import InputError, StorageError
from pipeline.oci import OCI_INDEX, Descriptor

DIGEST = f"sha256:{'a' * 64}"
HQ, SITE = "registry.hq.example:5000", "registry.site.example:5000"


def bundle(*sources: tuple[str, str], name: str = "v1.2.0") -> Bundle:
    root = Descriptor(OCI_INDEX, DIGEST, 2)
    images = tuple(Image(source, path, ("v1",), root, (), (DIGEST,)) for source, path in sources)
    return Bundle(FULL, name, "2026-11-25T03:00:00Z", PLAIN, images, ())


SIMPLE = bundle(
    (f"{HQ}/platform/app:v1", "platform/app"), (f"{HQ}/web@{DIGEST}", "web"), ("docker.io/library/x:1", "library/x")
)


def read(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


def hosts(text: str) -> tuple[str, dict[str, Any]]:
    value = tomllib.loads(text)
    return value["server"], value["host"]


def test_what_is_written(tmp_path: Path) -> None:
    paths = site_files.write(SIMPLE, SITE, "", tmp_path)
    found = read(tmp_path)
    assert (
        [str(path.relative_to(tmp_path)) for path in paths]
        == list(found)
        == [
            "containerd/certs.d/docker.io/hosts.toml",
            f"containerd/certs.d/{HQ}/hosts.toml",
            f"containerd/certs.d/{SITE}/hosts.toml",
            "containers/registries.conf.d/50-v1.2.0.conf",
            "openshift/v1.2.0-idms.yaml",
            "openshift/v1.2.0-itms.yaml",
        ]
    )
    mirror = {f"https://{SITE}": {"capabilities": ["pull", "resolve"]}}
    assert hosts(found[f"containerd/certs.d/{HQ}/hosts.toml"]) == (f"https://{HQ}", mirror)
    assert hosts(found["containerd/certs.d/docker.io/hosts.toml"]) == ("https://registry-1.docker.io", mirror)
    assert hosts(found[f"containerd/certs.d/{SITE}/hosts.toml"]) == (f"https://{SITE}", mirror)
    assert all(SIMPLE.id in text for text in found.values())


def test_a_prefix_and_an_authority(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("a certificate\n")
    out = tmp_path / "out"
    site_files.write(SIMPLE, SITE, "mirror/hq", out, tmp_path / "ca.pem")
    found = read(out)
    wanted = {"capabilities": ["pull", "resolve"], "override_path": True, "ca": "ca.crt"}
    assert hosts(found[f"containerd/certs.d/{HQ}/hosts.toml"])[1] == {f"https://{SITE}/v2/mirror/hq": wanted}
    own = {"capabilities": ["pull", "resolve"], "ca": "ca.crt"}
    assert hosts(found[f"containerd/certs.d/{SITE}/hosts.toml"])[1] == {f"https://{SITE}": own}
    for folder in (f"containerd/certs.d/{HQ}", f"containerd/certs.d/{SITE}", f"containers/certs.d/{SITE}"):
        assert found[f"{folder}/ca.crt"] == "a certificate\n"
    conf = tomllib.loads(found["containers/registries.conf.d/50-v1.2.0.conf"])
    assert {one["location"] for entry in conf["registry"] for one in entry["mirror"]} == {f"{SITE}/mirror/hq"}


def test_what_podman_is_told() -> None:
    mirrors = [site_files.Mirror(HQ, SITE)]
    conf = tomllib.loads(site_files.registries_conf(SIMPLE, mirrors, site_files.Site(SITE)))
    assert conf == {
        "unqualified-search-registries": [],
        "registry": [
            {
                "prefix": HQ,
                "location": HQ,
                "mirror": [
                    {"location": SITE, "pull-from-mirror": "digest-only"},
                    {"location": SITE, "pull-from-mirror": "tag-only"},
                ],
            }
        ],
    }


@pytest.mark.parametrize(("plain", "insecure"), [(True, False), (False, True)])
def test_without_tls_or_without_trust(tmp_path: Path, plain: bool, insecure: bool) -> None:
    site_files.write(SIMPLE, SITE, "", tmp_path, plain_http=plain, insecure=insecure)
    found = read(tmp_path)
    url, entry = next(iter(hosts(found[f"containerd/certs.d/{HQ}/hosts.toml"])[1].items()))
    assert url.startswith("http://") is plain
    assert entry.get("skip_verify", False) is insecure
    conf = tomllib.loads(found["containers/registries.conf.d/50-v1.2.0.conf"])
    assert conf["registry"][-1] == {"prefix": SITE, "location": SITE, "insecure": True}
    assert all(one["insecure"] for entry in conf["registry"][:-1] for one in entry["mirror"])


@pytest.mark.parametrize(
    ("suffix", "kind", "key"),
    [("idms", "ImageDigestMirrorSet", "imageDigestMirrors"), ("itms", "ImageTagMirrorSet", "imageTagMirrors")],
)
def test_what_openshift_is_told(tmp_path: Path, suffix: str, kind: str, key: str) -> None:
    site_files.write(bundle((f"{HQ}/web:v1", "web"), name="V1_2..0"), SITE, "mirror", tmp_path)
    assert yaml.safe_load((tmp_path / f"openshift/V1_2..0-{suffix}.yaml").read_text()) == {
        "apiVersion": "config.openshift.io/v1",
        "kind": kind,
        "metadata": {"name": "v1-2-0"},
        "spec": {key: [{"source": HQ, "mirrors": [f"{SITE}/mirror"]}]},
    }


def test_an_image_with_another_path_at_the_site(tmp_path: Path) -> None:
    moved = bundle((f"{HQ}/team/app:v1", "platform/app"), (f"{HQ}/web:v1", "web"))
    site_files.write(moved, SITE, "mirror", tmp_path)
    found = read(tmp_path)
    conf = tomllib.loads(found["containers/registries.conf.d/50-v1.2.0.conf"])
    pairs = [(one["prefix"], one["mirror"][0]["location"]) for one in conf["registry"]]
    assert pairs == [(HQ, f"{SITE}/mirror"), (f"{HQ}/team/app", f"{SITE}/mirror/platform/app")]
    text = found[f"containerd/certs.d/{HQ}/hosts.toml"]
    assert f"{HQ}/team/app is {SITE}/mirror/platform/app" in text
    assert "/web" not in text


def test_a_site_that_is_called_as_headquarters_is(tmp_path: Path) -> None:
    site_files.write(bundle((f"{HQ}/web:v1", "web")), HQ, "", tmp_path)
    found = read(tmp_path)
    assert list(found) == [f"containerd/certs.d/{HQ}/hosts.toml", "containers/registries.conf.d/50-v1.2.0.conf"]
    assert "registry" not in tomllib.loads(found["containers/registries.conf.d/50-v1.2.0.conf"])


def test_the_same_each_time(tmp_path: Path) -> None:
    for name in ("one", "two", "two"):
        site_files.write(SIMPLE, SITE, "x", tmp_path / name)
    assert read(tmp_path / "one") == read(tmp_path / "two")


def test_what_goes_wrong(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ca\.pem"):
        site_files.write(SIMPLE, SITE, "", tmp_path, tmp_path / "ca.pem")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file"):
        site_files.write(SIMPLE, SITE, "", tmp_path / "file")
