"""Every command of ./invoke, a few lines each; the work is done in pipeline/."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from invoke.collection import Collection
from invoke.context import Context
from invoke.tasks import task

from pipeline.core.console import command

if TYPE_CHECKING:
    from pipeline.core.arch import Architecture
    from pipeline.image import Plan
    from pipeline.installer import Source
    from pipeline.oci import RegistryOptions
    from pipeline.profile import Release

ROOT = Path(__file__).resolve().parent
PROFILES = str(ROOT / "osprofiles")
OVERLAYS, BUILD, INSTALLER = ROOT / "overlays", ROOT / "build", ROOT / "installer-image"
WHICH = {
    "os": "operating system, one of the profiles (default: debian)",
    "release": "one of its releases (default: the profile's)",
    "arch": "amd64 or arm64 (default: this machine's)",
    "profiles": "directory of the profiles (default: osprofiles/ of this checkout)",
}
REACH = {
    "ca": "PEM file of the authority that signed for the registry",
    "auth-file": "config.json of docker or auth.json of podman (default: where these look)",
    "insecure": "believe any certificate",
    "plain-http": "speak to the registry without TLS",
}

# What a command needs is imported when it runs: './invoke --list' has to be quick.


def _arch(name: str) -> Architecture:
    from pipeline.core.arch import Architecture

    return Architecture.parse(name) if name else Architecture.host()


def _plan(os: str, release: str, arch: str, profiles: str, *, mirror: str, base: str, medium: str) -> Plan:
    from pipeline import image, profile

    found = profile.find(os, Path(profiles))
    return image.resolve(
        found, release or None, _arch(arch), overlays=OVERLAYS, mirror=mirror or None,
        base_kind=base, medium=Path(medium) if medium else None,
    )  # fmt: skip


def _release(os: str, release: str, arch: str, profiles: str) -> Release:
    from pipeline import profile

    return profile.select(profile.find(os, Path(profiles)), release or None, _arch(arch))


def _directory(os: str, release: str, arch: str, profiles: str) -> Path:
    from pipeline import profile

    _release(os, release, arch, profiles)
    return BUILD / f"{os}-{release or profile.find(os, Path(profiles)).default_release}-{_arch(arch)}"


def _reach(ca: str, auth_file: str, *, insecure: bool, plain_http: bool) -> RegistryOptions:
    from pipeline import oci

    return oci.RegistryOptions(
        ca=Path(ca) if ca else None,
        insecure_tls=insecure,
        plain_http=plain_http,
        auth_file=Path(auth_file) if auth_file else oci.find_auth_file(),
    )


def _accelerated() -> bool:
    from pipeline import lab

    return lab.choose_accelerator(_arch("")).kind is lab.Kind.KVM


@task(
    help=WHICH
    | {
        "mirror": "package archive to use in place of this machine's apt sources, or of the profile's repositories",
        "base": "what the tree is made from: repo, or a medium: iso, qcow2, rootfs (default: repo)",
        "medium": "path of that medium",
        "refresh": "ask the package sources again, even if nothing else has changed",
        "dry-run": "print the whole resolved plan and stop",
    }
)
@command
def build(
    _context: Context,
    os: str = "debian",
    release: str = "",
    arch: str = "",
    profiles: str = PROFILES,
    mirror: str = "",
    base: str = "repo",
    medium: str = "",
    refresh: bool = False,
    dry_run: bool = False,
) -> None:
    """Build a node image: build/<os>-<release>-<arch>/.

    Example: ./invoke build --os debian --arch arm64
    """
    from pipeline import image

    plan = _plan(os, release, arch, profiles, mirror=mirror, base=base, medium=medium)
    if dry_run:
        print(image.plan_text(plan))
        return
    built = image.build(plan, BUILD, refresh=refresh, accelerated=_accelerated)
    print(image.outcome(built, f"./invoke verify --os {os} --release {plan.release_name} --arch {plan.arch}"))


@task(
    help={
        "os": "operating systems, with commas between them, or all",
        "release": "releases, with commas between them, or all (default: each profile's own)",
        "arch": "amd64, arm64 or all",
        "profiles": WHICH["profiles"],
        "mirror": "package archive to use in place of the profiles' own",
        "j": "how many at a time (default: as many as processors, memory and disk allow)",
        "only-missing": "leave out what has an image",
        "dry-run": "print which images would be built and stop",
    }
)
@command
def matrix(
    _context: Context,
    os: str = "all",
    release: str = "",
    arch: str = "all",
    profiles: str = PROFILES,
    mirror: str = "",
    j: int = 0,
    only_missing: bool = False,
    dry_run: bool = False,
) -> None:
    """Build many images at once; one that fails stops no other. The result is also in build/matrix.json.

    Example: ./invoke matrix --os all --arch all
    """
    from pipeline import matrix as many
    from pipeline import profile

    cells = profile.cells(Path(profiles), os, release, arch)
    if dry_run:
        many.print_selection(cells, BUILD, only_missing=only_missing)
        return
    workshop = many.Workshop(
        profiles=Path(profiles).absolute(), overlays=OVERLAYS, build_dir=BUILD, mirror=mirror or None
    )
    report = many.build(cells, workshop, jobs=j, only_missing=only_missing)
    many.print_report(report, BUILD)
    if report.exit_code:
        raise SystemExit(report.exit_code)


@task(
    help=WHICH
    | {
        "os": "operating systems, with commas between them, or all (default: debian)",
        "release": "releases, with commas between them, or all (default: each profile's own)",
        "arch": "amd64, arm64 or all (default: this machine's)",
        "base": "what it would be made from: repo, iso, qcow2 or rootfs (default: repo)",
        "medium": "the file or directory that --base speaks of",
        "mirror": "package archive to use in place of the profiles' own",
    }
)
@command
def doctor(
    _context: Context,
    os: str = "debian",
    release: str = "",
    arch: str = "",
    profiles: str = PROFILES,
    base: str = "repo",
    medium: str = "",
    mirror: str = "",
) -> None:
    """Check every URL, key and package of a profile, and this machine, without building.

    Example: ./invoke doctor --os kylin --release all --arch all
    """
    from pipeline import image, lab, profile

    code = image.doctor(
        profile.cells(Path(profiles), os, release, arch),
        overlays=OVERLAYS,
        build_dir=BUILD,
        mirror=mirror or None,
        base_kind=base,
        medium=Path(medium) if medium else None,
        machines=lambda arch: lab.choose_accelerator(arch).reason,
    )
    if code:
        raise SystemExit(code)


@task(name="list", help={"profiles": WHICH["profiles"]})
@command
def list_images(_context: Context, profiles: str = PROFILES) -> None:
    """List what can be built and what is: profiles, releases (* is the default), architectures, size, age.

    Example: ./invoke list
    """
    from pipeline import image, profile

    directory = Path(profiles)
    image.print_rows(image.rows([profile.find(name, directory) for name in profile.names(directory)], BUILD))


@task(
    help=WHICH
    | {
        "firmware": "bios or uefi (default: both where the architecture has both)",
        "offline": "do not boot; run the part of the suite that needs no running system",
        "kernel-update": "packages of a kernel for the update test, with commas between them (default: from where the "
        "image's packages came)",
    }
)
@command
def verify(
    _context: Context,
    os: str = "debian",
    release: str = "",
    arch: str = "",
    profiles: str = PROFILES,
    firmware: str = "",
    offline: bool = False,
    kernel_update: str = "",
) -> None:
    """Boot a built image and run the testinfra suite on it; reports go beside the image.

    Example: ./invoke verify --os debian --arch arm64
    """
    from pipeline import image, lab
    from pipeline.core import progress

    directory, found = _directory(os, release, arch, profiles), _release(os, release, arch, profiles)
    with progress.session(BUILD / "logs" / f"verify-{directory.name}.log"):
        update = tuple(map(Path, filter(None, kernel_update.split(","))))
        if not update and not offline:
            update = image.other_kernel(found.base, _arch(arch), directory)
        chosen = lab.Firmware.parse(firmware) if firmware else None
        lab.verify(directory, firmware=chosen, offline=offline, kernel_update=update)


@task(help=WHICH | {"firmware": "bios or uefi (default: uefi)"})
@command
def shell(
    _context: Context,
    os: str = "debian",
    release: str = "",
    arch: str = "",
    profiles: str = PROFILES,
    firmware: str = "",
) -> None:
    """Boot a built image and log in; the machine is destroyed on exit.

    Example: ./invoke shell --os debian
    """
    from pipeline import lab

    chosen = lab.Firmware.parse(firmware) if firmware else None
    raise SystemExit(lab.shell(_directory(os, release, arch, profiles), firmware=chosen))


@task(help=WHICH)
@command
def inspect(_context: Context, os: str = "debian", release: str = "", arch: str = "", profiles: str = PROFILES) -> None:
    """Show what libguestfs sees in a built image: a second, independent opinion.

    Example: ./invoke inspect --arch arm64
    """
    from pipeline import image

    directory = _directory(os, release, arch, profiles)
    found = image.inspect(directory / f"{directory.name}.qcow2", accelerated=_accelerated())
    print(image.inspection_text(found))


@task(help={"name": "only this image, as ./invoke list names it: debian-12-amd64", "cache": "also empty the cache"})
@command
def clean(_context: Context, name: str = "", cache: bool = False) -> None:
    """Remove built images, and the cache if asked.

    Example: ./invoke clean --cache
    """
    from pipeline import image

    freed = image.clean(BUILD, names=(name,) if name else (), with_cache=cache)
    print(f"freed {freed / 1e9:.2f} GB")


@task(
    help={
        "fast": "only what needs no privileges, in under a minute",
        "k": "only tests whose names match this (pytest's -k): 'cache and not slow'",
    }
)
@command
def test(_context: Context, fast: bool = False, k: str = "") -> None:
    """Run the tests: unit and integration, with the real tools.

    Example: ./invoke test --fast
    """
    from pipeline import quality

    if code := quality.test(fast=fast, expression=k):
        raise SystemExit(code)


@task
@command
def lint(_context: Context) -> None:
    """Check the code with ruff, mypy, shellcheck and shfmt.

    Example: ./invoke lint
    """
    from pipeline import quality

    quality.lint()


@task(
    help={
        "n": "how often each is measured (default: 3; of the RPM systems once)",
        "rpm": "only the RPM systems, from the stand-in repositories: benchmarks/rpm.md",
        "deb": "only Debian: benchmarks/report.md",
        "installer": "only the installer image: benchmarks/installer.md",
        "cluster": "only the installation of a cluster: benchmarks/cluster.md",
    }
)
@command
def benchmark(
    _context: Context, n: int = 0, rpm: bool = False, deb: bool = False, installer: bool = False, cluster: bool = False
) -> None:
    """Measure builds, rebuilds, sizes and memory on this machine: reports in benchmarks/, with JSON beside.

    Example: ./invoke benchmark --deb -n 5
    """
    from benchmarks.__main__ import main

    parts = {"--rpm": rpm, "--deb": deb, "--installer": installer, "--cluster": cluster}
    main([*(["-n", str(n)] if n else []), *(word for word, wanted in parts.items() if wanted)])


# --- installer.*

COMPONENTS = "file with the components, its lock beside it (default: installer-image/components.yaml)"
MIRROR = "URL or directory that stands for scheme and host of every URL; the paths stay"


def _source(components: str) -> Source:
    from pipeline import installer

    return installer.Source.at(INSTALLER, Path(components) if components else None)


@task(
    help={
        "components": COMPONENTS,
        "arch": "amd64, arm64, or all that installer-image/image.yaml names",
        "mirror": MIRROR,
        "dry-run": "print the whole resolved plan and stop",
    }
)
@command
def installer_build(
    _context: Context, components: str = "", arch: str = "all", mirror: str = "", dry_run: bool = False
) -> None:
    """Build the installer image from what the lock pins: build/cluster-installer/.

    Example: ./invoke installer.build --mirror /srv/mirror
    """
    from pipeline import installer

    plan = installer.resolve(_source(components), arch=arch, mirror=mirror or None)
    if dry_run:
        print(plan.text())
        return
    print(installer.outcome(installer.build(plan, BUILD)))


@task(help={"components": COMPONENTS, "mirror": MIRROR})
@command
def installer_lock(_context: Context, components: str = "", mirror: str = "") -> None:
    """Download every component once, check it, and pin its sha256 in components.lock.

    Example: ./invoke installer.lock --mirror https://mirror.site.example/upstream
    """
    from pipeline import installer
    from pipeline.core import progress

    source = _source(components)
    with progress.session(BUILD / "logs/installer-lock.log"):
        changes = installer.make_lock(source, mirror=mirror or None)
    print("\n".join([f"{source.lock}: {len(changes)} changes", *changes]) if changes else f"{source.lock}: unchanged")


@task(help=REACH | {"to": "where to: HOST[:PORT]/PATH", "tag": "name beside the digest (default: the image's version)"})
@command
def installer_push(
    _context: Context,
    to: str = "",
    tag: str = "",
    ca: str = "",
    auth_file: str = "",
    insecure: bool = False,
    plain_http: bool = False,
) -> None:
    """Push the built installer image to the site's registry, and print the line that its nodes need.

    Example: ./invoke installer.push --to registry.site.example:5000/cluster/cluster-installer --ca ca.pem
    """
    from pipeline import installer

    options = _reach(ca, auth_file, insecure=insecure, plain_http=plain_http)
    where, _ = installer.push(BUILD, to, tag=tag or None, options=options)
    print(f"INSTALLER_IMAGE={where}")


@task(help={"to": "where it is pushed, for the line that nodes need: HOST[:PORT]/PATH"})
@command
def installer_show(_context: Context, to: str = "") -> None:
    """Show the built installer image: components, versions, sizes, layers and digests.

    Example: ./invoke installer.show
    """
    from pipeline import installer

    installer.print_image(BUILD, to or installer.EXAMPLE)


# --- cluster.*


@task(
    help={
        "spec": "the cluster as a YAML file, see docs/site-guide.md (default: cluster.yaml)",
        "out": "directory of the seeds (default: build/clusters/ and the cluster's name)",
    }
)
@command
def cluster_render(_context: Context, spec: str = "cluster.yaml", out: str = "") -> None:
    """Write the cloud-init seed of every node of a cluster: one directory and one seed.iso each.

    Example: ./invoke cluster.render --spec cluster.yaml
    """
    from pipeline import installer

    site = installer.read(Path(spec))
    print(installer.render(site, Path(out) if out else BUILD / "clusters" / site.cluster.name).text())


# --- what invoke takes; a name without a dot is a command of node images, or of this project as a whole

ns = Collection(build, matrix, doctor, list_images, verify, shell, inspect, clean, test, lint, benchmark)
ns.add_collection(
    Collection("installer", build=installer_build, lock=installer_lock, push=installer_push, show=installer_show)
)
ns.add_collection(Collection("cluster", render=cluster_render))
