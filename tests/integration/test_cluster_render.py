"""What ./invoke cluster.render writes, read by the tools it is for: cloud-init, the bootstrap hook and the payload."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from pipeline.quality import ROOT
from tests.unit.test_installer_spec import certificate

EXAMPLE = ROOT / "docs/cluster.example.yaml"
HOOK = ROOT / "overlays/common/root/usr/lib/cluster/cluster-bootstrap"
LIBRARY = ROOT / "installer-image/payload/lib"
NODES = ("m1", "m2", "m3", "w1", "w2")
ENDPOINTS = {
    "as in the example": {},
    "none": {"balancer": "none", "address": None},
    "external": {"balancer": "external", "port": 443, "address": None},
    "external, with its address": {"balancer": "external", "port": 443},
    "nginx": {"balancer": "nginx", "port": 8443, "address": None},
    "vip by its address": {"host": "10.10.0.10", "interface": "eth0"},
}
PACKAGES = (
    "cloud-init", "python3-attr", "python3-certifi", "python3-chardet", "python3-configobj", "python3-idna",
    "python3-jinja2", "python3-json-pointer", "python3-jsonpatch", "python3-jsonschema", "python3-markupsafe",
    "python3-netifaces", "python3-oauthlib", "python3-pyrsistent", "python3-requests", "python3-serial", "python3-six",
    "python3-urllib3", "python3-yaml",
)  # fmt: skip


def invoke(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([ROOT / "invoke", *words], capture_output=True, text=True, check=False)


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    """The guide's example beside the files that it names."""
    certificate(tmp_path, name="registry-ca.pem")
    (tmp_path / "registry-auth.json").write_text('{"auths": {"registry.site.example:5000": {"auth": "YTpi"}}}\n')
    return Path(shutil.copy(EXAMPLE, tmp_path / "cluster.yaml"))


@pytest.fixture
def rendered(spec: Path, tmp_path: Path) -> Path:
    done = invoke("cluster.render", "--spec", spec, "--out", tmp_path / "seeds")
    assert done.returncode == 0, done.stderr
    return tmp_path / "seeds"


def test_the_example_of_the_guide(rendered: Path, spec: Path) -> None:
    assert sorted(path.name for path in rendered.iterdir()) == sorted([*NODES, "join.secret"])
    again = invoke("cluster.render", "--spec", spec, "--out", rendered)
    assert [line.split()[-1] for line in again.stdout.splitlines() if line.startswith(NODES)] == ["unchanged"] * 5


def test_a_wrong_spec_ends_with_2_and_every_problem(spec: Path, tmp_path: Path) -> None:
    text = spec.read_text().replace("role: worker, address: 10.10.0.21", "role: slave, address: 10.10.0.11")
    spec.write_text(text.replace("services: 10.96.0.0/16", "services: 10.244.0.0/20"))
    done = invoke("cluster.render", "--spec", spec, "--out", tmp_path / "seeds")
    assert done.returncode == 2
    said = re.findall(r"cluster\.yaml:(\d+): ([\w.]+): ", done.stderr)
    lines = spec.read_text().splitlines()
    assert [key for _, key in said] == ["networks.services", "nodes.3.address", "nodes.3.role"]
    assert [lines[int(number) - 1].split()[-1] for number, _ in said] == ["10.244.0.0/20", "amd64}", "amd64}"]
    assert not (tmp_path / "seeds").exists()


# ---------------------------------------------------------------------------------------- the nodes' side


def on_the_node(rendered: Path, name: str, root: Path) -> Path:
    """Write a seed's files as cloud-init does, below another root; return its cluster.env."""
    for file in yaml.safe_load((rendered / name / "user-data").read_text())["write_files"]:
        path = root / file["path"].lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file["content"].replace("=/etc/cluster/", f"={root}/etc/cluster/"))
        path.chmod(int(file["permissions"], 8))
    return root / "etc/cluster/cluster.env"


def bash(script: str, *words: str | Path) -> str:
    done = subprocess.run(["bash", "-c", script, "bash", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("endpoint", ENDPOINTS.values(), ids=ENDPOINTS)
def test_hook_and_payload_accept_every_node(spec: Path, tmp_path: Path, endpoint: dict[str, object]) -> None:
    data = yaml.safe_load(spec.read_text())
    data["endpoint"] = {key: value for key, value in (data["endpoint"] | endpoint).items() if value is not None}
    spec.write_text(yaml.safe_dump(data))
    done = invoke("cluster.render", "--spec", spec, "--out", tmp_path / "seeds")
    assert done.returncode == 0, done.stderr
    for name in NODES:
        env = on_the_node(tmp_path / "seeds", name, tmp_path / name)
        bash('. "$1"; ENV_FILE=$2; read_settings; check_settings', HOOK, env)
        bash('set -Eeuo pipefail; . "$1/utils.sh"; config_load "$2"; config_validate', LIBRARY, env)


def test_the_payload_reads_back_what_was_meant(rendered: Path, tmp_path: Path) -> None:
    env = on_the_node(rendered, "m3", tmp_path / "m3")
    words = "${CLUSTER_NODE_NAME} ${CLUSTER_VIP} ${CLUSTER_ENDPOINT_IP} ${CLUSTER_KEEP_RELEASES}"
    script = f'. "$1/utils.sh"; config_load "$2"; config_validate; echo "{words}"; cluster_masters'
    assert bash(script, LIBRARY, env).splitlines() == [
        "m3 10.10.0.10 10.10.0.10 3", "m1 10.10.0.11", "m2 10.10.0.12", "m3 10.10.0.13",
    ]  # fmt: skip


def test_the_key_list_is_the_payloads(rendered: Path) -> None:
    known = bash('. "$1/utils.sh"; printf "%s\\n" "${CONFIG_HOOK_KEYS[@]}" "${CONFIG_KEYS[@]}"', LIBRARY).split()
    written = [line.partition("=")[0] for line in (rendered / "m1/cluster.env").read_text().splitlines()]
    assert written == known


def test_the_block_of_the_hosts_file_is_the_payloads(rendered: Path, tmp_path: Path) -> None:
    """What bootcmd wrote is replaced by the payload's block, not doubled; bootcmd leaves that one alone."""
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost\n")
    script = yaml.safe_load((rendered / "w1/user-data").read_text())["bootcmd"][0].replace("/etc/hosts", str(hosts))
    bash(script)
    first = hosts.read_text()
    block = 'set -Eeuo pipefail; . "$1/utils.sh"; HOSTS_FILE=$2; printf "%s\\n" "$3" | hosts_block registry'
    bash(block, LIBRARY, hosts, "10.10.0.5 registry.site.example")
    assert hosts.read_text() == first
    bash(block, LIBRARY, hosts, "10.10.0.6 registry.site.example")
    moved = first.replace("10.10.0.5", "10.10.0.6")
    assert hosts.read_text() == moved
    bash(script)
    assert hosts.read_text() == moved
    hosts.write_text(first.rpartition("# END")[0])  # a power cut in the middle of bootcmd
    bash(script)
    bash(block, LIBRARY, hosts, "10.10.0.5 registry.site.example")
    assert hosts.read_text().count("10.10.0.5 registry.site.example\n# END cluster-installer registry\n") == 1


# ------------------------------------------------------------------------------------------- cloud-init


@pytest.fixture(scope="module")
def cloud_init(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command of Debian's cloud-init: unpacked, not installed, as its package would start it at the next boot."""
    directory = tmp_path_factory.mktemp("cloud-init")
    words = ["apt-get", "download", *PACKAGES]
    fetched = subprocess.run(words, cwd=directory, capture_output=True, text=True, check=False)
    packages = sorted(directory.glob("*.deb"))
    if fetched.returncode or not packages:
        pytest.skip(f"cloud-init cannot be downloaded: {fetched.stderr.strip()}")
    for package in packages:
        subprocess.run(["dpkg-deb", "--extract", package, directory / "root"], check=True)
    path = directory / "root/usr/lib/python3/dist-packages"
    return ["env", f"PYTHONPATH={path}", "/usr/bin/python3", "-m", "cloudinit.cmd.main"]


def run(words: list[str], **settings: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | settings, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.root
def test_cloud_init_finds_the_schema_kept(cloud_init: list[str], rendered: Path, tmp_path: Path) -> None:
    for name in NODES:
        assert "Valid" in run([*cloud_init, "schema", "--config-file", str(rendered / name / "user-data")])
    wrong = tmp_path / "wrong"
    wrong.write_text((rendered / "m1/user-data").read_text().replace("bootcmd:", "bootcmd: 1\nx-bootcmd:"))
    refused = [*cloud_init, "schema", "--config-file", str(wrong)]
    assert subprocess.run(refused, capture_output=True, check=False).returncode != 0


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.root
@pytest.mark.parametrize(
    ("distro", "kind"), [("debian", "networkd"), ("rhel", "sysconfig"), ("rhel", "network-manager")]
)
def test_cloud_init_makes_the_interface(
    cloud_init: list[str], rendered: Path, tmp_path: Path, distro: str, kind: str
) -> None:
    convert = ["devel", "net-convert", "--network-data", str(rendered / "m1/network-config"), "--kind", "yaml"]
    made = tmp_path / "etc-of-the-node"
    run([*cloud_init, *convert, "-d", str(made), "-D", distro, "-O", kind, "-m", "eth0,52:54:00:0a:0a:0b"])
    text = "\n".join(path.read_text() for path in sorted(made.rglob("*eth0*")) if path.is_file()).lower()
    for value in ("52:54:00:0a:0a:0b", "10.10.0.11", "10.10.0.1", "eth0"):
        assert value in text
