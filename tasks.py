"""Every command of ./invoke, a few lines each; the work is done in pipeline/."""

from __future__ import annotations

from os import environ
from pathlib import Path
from typing import TYPE_CHECKING

from invoke.collection import Collection
from invoke.context import Context
from invoke.tasks import task

from pipeline.core.console import command

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from pipeline.bundle import ImageList, Options
    from pipeline.core.arch import Architecture
    from pipeline.image import Plan
    from pipeline.installer import Source
    from pipeline.matrix import Access
    from pipeline.oci import RegistryOptions
    from pipeline.profile import Release

ROOT = Path(__file__).resolve().parent
PROFILES = str(ROOT / "osprofiles")
OVERLAYS, BUILD, INSTALLER = ROOT / "overlays", ROOT / "build", ROOT / "installer-image"
BUNDLES = BUILD / "bundles"
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
MEMBER = {
    "ca": "PEM file of the authority that signed for everybody in the farm",
    "cert": "this machine's certificate, PEM",
    "key": "its private key, PEM",
}

# What a command needs is imported when it runs: './invoke --list' has to be quick.


def _arch(name: str) -> Architecture:
    from pipeline.core.arch import Architecture

    return Architecture.parse(name) if name else Architecture.host()


def _plan(
    os: str, release: str, arch: str, profiles: str, *, mirror: str, base: str = "repo", medium: str = "",
    locked: bool = False,
) -> Plan:  # fmt: skip
    from pipeline import image, profile

    found = profile.find(os, Path(profiles))
    profile.select(found, release or None, _arch(arch))  # of what there is not, there is no lock either
    return image.resolve(
        found, release or None, _arch(arch), overlays=OVERLAYS, mirror=mirror or None,
        base_kind=base, medium=Path(medium) if medium else None,
        lock=image.read_lock(_lock_path(os, release, arch, profiles)) if locked else None,
    )  # fmt: skip


def _lock_path(os: str, release: str, arch: str, profiles: str) -> Path:
    from pipeline import image, profile

    directory = Path(profiles)
    return image.lock_path(directory, os, release or profile.find(os, directory).default_release, _arch(arch))


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


def _traced(profile: str | bool, name: str) -> AbstractContextManager[None]:
    """Record what happens, if that is asked for (``--profile``) and in the file that is named (``--profile FILE``)."""
    from contextlib import nullcontext

    if not profile:
        return nullcontext()
    from pipeline.core import trace

    return trace.recorded(BUILD / "logs" / f"{name}.trace.json" if profile is True else Path(profile))


def _access(address: str, ca: str, cert: str, key: str, *, option: str = "--scheduler") -> Access:
    from pipeline import matrix as many

    files = [Path(name) if name else None for name in (ca, cert, key)]
    return many.Access(many.Address.parse(address, option=option), *files)


def _accelerated() -> bool:
    from pipeline import lab

    return lab.choose_accelerator(_arch("")).kind is lab.Kind.KVM


@task(
    help=WHICH
    | {
        "mirror": "package archive to use in place of this machine's apt sources, or of the profile's repositories",
        "base": "what the tree is made from: repo, or a medium: iso, qcow2, rootfs (default: repo)",
        "medium": "path of that medium",
        "locked": "install exactly what osprofiles/locks/<os>-<release>-<arch>.json names, see ./invoke lock",
        "refresh": "ask the package sources again, even if nothing else has changed",
        "dry-run": "print the whole resolved plan and stop",
        "profile": "record where the time goes, for ui.perfetto.dev (default: build/logs/<name>.trace.json)",
    },
    optional=["profile"],
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
    locked: bool = False,
    refresh: bool = False,
    dry_run: bool = False,
    profile: str = "",
) -> None:
    """Build a node image: build/<os>-<release>-<arch>/.

    Example: ./invoke build --os debian --arch arm64
    """
    from pipeline import image

    plan = _plan(os, release, arch, profiles, mirror=mirror, base=base, medium=medium, locked=locked)
    if dry_run:
        print(image.plan_text(plan))
        return
    with _traced(profile, plan.name):
        built = image.build(plan, BUILD, refresh=refresh, accelerated=_accelerated)
    print(image.outcome(built, f"./invoke verify --os {os} --release {plan.release_name} --arch {plan.arch}"))


@task(
    help=WHICH
    | {
        "mirror": "package archive to use in place of this machine's apt sources, or of the profile's repositories",
        "update": "write the lock although there is one",
    }
)
@command
def lock(
    _context: Context,
    os: str = "debian",
    release: str = "",
    arch: str = "",
    profiles: str = PROFILES,
    mirror: str = "",
    update: bool = False,
) -> None:
    """Pin every package of an image in osprofiles/locks/; exit code 1 if a lock that is there would change.

    Example: ./invoke lock --os debian --arch arm64 --update
    """
    from pipeline import image

    plan = _plan(os, release, arch, profiles, mirror=mirror)
    log = BUILD / "logs" / f"lock-{plan.name}.log"
    found = image.update_lock(plan, _lock_path(os, release, arch, profiles), log, write=update)
    print(image.lock_text(found))
    if found.is_stale:
        raise SystemExit(1)


@task(
    help={
        "os": "operating systems, with commas between them, or all",
        "release": "releases, with commas between them, or all (default: each profile's own)",
        "arch": "amd64, arm64 or all",
        "profiles": WHICH["profiles"],
        "mirror": "package archive to use in place of the profiles' own",
        "j": "how many at a time (default: as many as processors, memory and disk allow)",
        "only-missing": "leave out what has an image",
        "locked": "install exactly what the lock of each image names, see ./invoke lock",
        "dry-run": "print which images would be built and stop",
        "scheduler": "build on the servers of this farm: tls://HOST:8786; see docs/scaling.md",
        "artifacts": "where servers put images: a directory that all of them share, or oci://REGISTRY/REPOSITORY "
        "(default: they stay on the servers)",
        "allow-emulation": "let a server build for an architecture that no server is of",
        "patience": "seconds to wait when the last server of an architecture is gone (default: 60)",
    }
    | MEMBER
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
    locked: bool = False,
    dry_run: bool = False,
    scheduler: str = "",
    artifacts: str = "",
    allow_emulation: bool = False,
    patience: int = 60,
    ca: str = "",
    cert: str = "",
    key: str = "",
) -> None:
    """Build many images at once, here or on build servers; the result is also in build/matrix.json.

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
    farm = None
    if scheduler:
        store = many.check_artifacts(artifacts) if artifacts else None
        farm = many.Farm(_access(scheduler, ca, cert, key), store, emulation=allow_emulation, patience=patience)
    report = many.build(cells, workshop, jobs=j, only_missing=only_missing, locked=locked, farm=farm)
    many.print_report(report, BUILD)
    if report.exit_code:
        raise SystemExit(report.exit_code)


@task(
    help={
        "listen": "where to listen (default: tcp://127.0.0.1:8786, this machine only)",
        "dashboard": "where Dask's dashboard is: HOST:PORT, or :PORT for every interface (default: 127.0.0.1:8787)",
    }
    | MEMBER
)
@command
def scheduler(
    _context: Context,
    listen: str = "tcp://127.0.0.1:8786",
    dashboard: str = "127.0.0.1:8787",
    ca: str = "",
    cert: str = "",
    key: str = "",
) -> None:
    """Run the scheduler of a farm of build servers: Dask's own, with its dashboard.

    Example: ./invoke scheduler --listen tls://0.0.0.0:8786 --ca ca.pem --cert farm.pem --key farm.key
    """
    from pipeline import matrix as many

    many.run_scheduler(_access(listen, ca, cert, key, option="--listen"), dashboard)


@task(
    help={
        "scheduler": "the farm's scheduler: tls://HOST:8786 (default: tcp://127.0.0.1:8786)",
        "j": "how many images at a time (default: as many as processors, memory and disk allow)",
        "emulate": "also build for the other architecture, under qemu-user, for those who allow it",
        "name": "what this server calls itself (default: the machine's name)",
        "listen": "where the scheduler reaches this server: tls://HOST[:PORT] (default: any port)",
        "registry-ca": REACH["ca"],
        "registry-auth-file": REACH["auth-file"],
        "registry-insecure": REACH["insecure"],
        "registry-plain-http": REACH["plain-http"],
    }
    | MEMBER
)
@command
def worker(
    _context: Context,
    scheduler: str = "tcp://127.0.0.1:8786",
    j: int = 0,
    emulate: bool = False,
    name: str = "",
    listen: str = "",
    registry_ca: str = "",
    registry_auth_file: str = "",
    registry_insecure: bool = False,
    registry_plain_http: bool = False,
    ca: str = "",
    cert: str = "",
    key: str = "",
) -> None:
    """Make this machine a build server: it builds what ./invoke matrix --scheduler orders, until Ctrl-C.

    Example: ./invoke worker --scheduler tls://farm.site.example:8786 --ca ca.pem --cert farm.pem --key farm.key
    """
    from pipeline import matrix as many

    registry = many.RegistryAccess(
        ca=Path(registry_ca).absolute() if registry_ca else None,
        auth_file=Path(registry_auth_file).absolute() if registry_auth_file else None,
        insecure=registry_insecure,
        plain_http=registry_plain_http,
    )
    access = _access(scheduler, ca, cert, key)
    many.run_worker(access, BUILD, name=name, jobs=j, emulate=emulate, listen=listen, registry=registry)


@task(help={"output": "where the page goes (default: build/report.html)"})
@command
def report(_context: Context, output: str = "") -> None:
    """Make one HTML page about all images: sizes, times, verifications, packages that differ, history, failures.

    Example: ./invoke report --output images.html
    """
    from pipeline import matrix as many

    print(many.write_page(BUILD, Path(output) if output else None))


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


WHERE = "repository in a registry: HOST[:PORT]/PATH"
SOME = {
    "os": "operating systems, with commas between them, or all (default: debian)",
    "release": "releases, with commas between them, or all (default: each profile's own)",
    "arch": "amd64, arm64 or all (default: this machine's)",
}


@task(help=WHICH | SOME | REACH | {"to": WHERE, "arch": SOME["arch"] + "; of all, those that are built"})
@command
def publish(
    _context: Context,
    os: str = "debian",
    release: str = "",
    arch: str = "",
    profiles: str = PROFILES,
    to: str = "",
    ca: str = "",
    auth_file: str = "",
    insecure: bool = False,
    plain_http: bool = False,
) -> None:
    """Push built images to a registry, for KubeVirt, podman, skopeo and oras; prints their names with digest.

    Example: ./invoke publish --os debian --arch all --to registry.site.example:5000/node-images --ca ca.pem
    """
    from pipeline import image, profile

    names = [cell.name for cell in profile.cells(Path(profiles), os, release, arch)]
    options = _reach(ca, auth_file, insecure=insecure, plain_http=plain_http)
    some = "all" in (os, release, arch)
    print("\n".join(one.reference for one in image.publish_images(names, BUILD, to, options, only_built=some)))


@task(help=WHICH | SOME | REACH | {"repository": WHERE})
@command
def fetch(
    _context: Context,
    os: str = "debian",
    release: str = "",
    arch: str = "",
    profiles: str = PROFILES,
    repository: str = "",
    ca: str = "",
    auth_file: str = "",
    insecure: bool = False,
    plain_http: bool = False,
) -> None:
    """Get published images from a registry into build/, verified, as if they had been built here.

    Example: ./invoke fetch --arch arm64 --repository registry.site.example:5000/node-images --ca ca.pem
    """
    from pipeline import image, profile

    names = [cell.name for cell in profile.cells(Path(profiles), os, release, arch)]
    options = _reach(ca, auth_file, insecure=insecure, plain_http=plain_http)
    print("\n".join(map(str, image.fetch_images(names, BUILD, repository, options))))


@task(
    help={
        "a": "an image: the name of a built one, a directory that holds one, or a qcow2 file",
        "b": "the one that it is compared with",
        "html": "file that gets everything as one HTML page",
        "all": "leave nothing out on the terminal, however much differs",
        "deep": "have diffoscope, if it is installed, look into files that are no text",
    }
)
@command
def diff(
    _context: Context,
    a: str,
    b: str,
    html: str = "",
    all: bool = False,  # noqa: A002
    deep: bool = False,
) -> None:
    """Show where two images differ: packages, files, boot, disk. Ends with 1 if they do, as diff does.

    Example: ./invoke diff debian-12-amd64 /backup/debian-12-amd64.qcow2 --html diff.html
    """
    from pipeline import image

    found = image.compare_images(image.locate_image(a, BUILD), image.locate_image(b, BUILD), deep=deep)
    image.print_difference(found, everything=all)
    if html:
        image.write_difference(found, Path(html))
    if not found.is_same:
        raise SystemExit(1)


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
        "bundles": "only bundles, side by side with skopeo: benchmarks/bundles.md",
        "peers": "a Debian image side by side with mkosi and diskimage-builder, as root: benchmarks/peers.md",
    }
)
@command
def benchmark(
    _context: Context,
    n: int = 0,
    rpm: bool = False,
    deb: bool = False,
    installer: bool = False,
    cluster: bool = False,
    bundles: bool = False,
    peers: bool = False,
) -> None:
    """Measure builds, rebuilds, sizes and memory on this machine: reports in benchmarks/, with JSON beside.

    Example: ./invoke benchmark --deb -n 5
    """
    from benchmarks.__main__ import main

    parts = {"--rpm": rpm, "--deb": deb, "--installer": installer, "--cluster": cluster}
    parts |= {"--bundles": bundles, "--peers": peers}
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


# --- bundle.*

IMAGES = "file that lists the images, see docs/bundles.md (default: images.yaml)"
FROM_RELEASE = "HOST/PATH:TAG of an OpenShift-style release payload: it, and every image that it names"
WHAT = {
    "images": IMAGES,
    "from-release": FROM_RELEASE,
    "release-mirror": "HOST/PATH where the images of the release are, if not where it says",
    "release-signatures": "directory or URL with sha256=<digest>/signature-1 of the release, kept beside",
}
MAKE = {
    "name": "name of the new bundle, such as v1.2.0",
    "store": "plain: any OCI tool reads it; lean: the same blobs much smaller (default: plain)",
    "volume-size": "cut it into volumes of at most so many bytes, such as 2G (default: one volume)",
    "chunk-size": "also write chunks.json: hashes of such parts of each volume, for portals that take parts",
    "key": "private key that signs it: EC P-256, PEM; BUNDLE_KEY_PASSWORD is its password",
}
BUNDLE = "its directory, one of its volumes, or its name below build/bundles/"
BASE = "bundle that the site has: " + BUNDLE + "; may be given several times"
PINNED = "public key that the bundle must be signed with"
TO = "where to: HOST[:PORT][/PREFIX]"


def _bundle_path(name: str) -> Path:
    return Path(name) if "/" in name or Path(name).exists() else BUNDLES / name


def _images(
    images: str, from_release: str, release_mirror: str, release_signatures: str, reach: RegistryOptions
) -> ImageList:
    from dataclasses import replace

    from pipeline import bundle, oci

    if not from_release:
        return bundle.read_images(Path(images))
    reference, store = oci.Reference.parse(from_release), oci.Layout.create(BUNDLES / bundle.STORE)
    found = bundle.read_release(reference, bundle.registries(reach), store, mirror=release_mirror or None)
    return replace(found, release_signatures=release_signatures or None)


def _making(store: str, volume_size: str, chunk_size: str, key: str) -> Options:
    from pipeline import bundle
    from pipeline.core.units import parse_size

    return bundle.Options(
        out=BUNDLES,
        store=store,
        volume_size=parse_size(volume_size) if volume_size else None,
        chunk_size=parse_size(chunk_size) if chunk_size else None,
        key=Path(key) if key else None,
        password=environ.get("BUNDLE_KEY_PASSWORD", ""),
    )


def _at_the_site(command: str, bundle: str, **options: str | bool) -> None:
    """Do what bundle.pyz does: both are one program."""
    from pipeline import bundle as room

    words = [command, str(_bundle_path(bundle))]
    for name, value in options.items():
        words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])] if value else []
    room.main(words, str(BUNDLES))


@task(help=REACH | WHAT | MAKE)
@command
def bundle_pack(
    _context: Context,
    name: str = "",
    images: str = "images.yaml",
    from_release: str = "",
    release_mirror: str = "",
    release_signatures: str = "",
    store: str = "plain",
    volume_size: str = "",
    chunk_size: str = "",
    key: str = "",
    ca: str = "",
    auth_file: str = "",
    insecure: bool = False,
    plain_http: bool = False,
) -> None:
    """Pack container images for a site without internet: build/bundles/<name>/.

    Example: ./invoke bundle.pack --images images.yaml --name v1.2.0 --volume-size 2G
    """
    from pipeline import bundle
    from pipeline.core import progress

    reach = _reach(ca, auth_file, insecure=insecure, plain_http=plain_http)
    options = _making(store, volume_size, chunk_size, key)
    with progress.session(BUILD / "logs/bundle-pack.log"):
        listed = _images(images, from_release, release_mirror, release_signatures, reach)
        with bundle.pack(listed, name, bundle.registries(reach), BUNDLES / bundle.STORE, options) as packed:
            print(bundle.outcome(packed))


@task(iterable=["base"], help=REACH | WHAT | MAKE | {"base": BASE})
@command
def bundle_patch(
    _context: Context,
    base: list[str],
    name: str = "",
    images: str = "images.yaml",
    from_release: str = "",
    release_mirror: str = "",
    release_signatures: str = "",
    store: str = "plain",
    volume_size: str = "",
    chunk_size: str = "",
    key: str = "",
    ca: str = "",
    auth_file: str = "",
    insecure: bool = False,
    plain_http: bool = False,
) -> None:
    """Pack what is new or changed against bundles that the site has.

    Example: ./invoke bundle.patch --base v1.2.0 --images images.yaml --name v1.2.1
    """
    from pipeline import bundle
    from pipeline.core import progress

    reach = _reach(ca, auth_file, insecure=insecure, plain_http=plain_http)
    options = _making(store, volume_size, chunk_size, key)
    with progress.session(BUILD / "logs/bundle-patch.log"), bundle.opened(map(_bundle_path, base)) as bases:
        listed = _images(images, from_release, release_mirror, release_signatures, reach)
        with bundle.patch(listed, name, bases, bundle.registries(reach), BUNDLES / bundle.STORE, options) as packed:
            print(bundle.outcome(packed))


@task(iterable=["base"], help=REACH | WHAT | MAKE | {"base": BASE})
@command
def bundle_upgrade(
    _context: Context,
    base: list[str],
    name: str = "",
    images: str = "images.yaml",
    from_release: str = "",
    release_mirror: str = "",
    release_signatures: str = "",
    store: str = "plain",
    volume_size: str = "",
    chunk_size: str = "",
    key: str = "",
    ca: str = "",
    auth_file: str = "",
    insecure: bool = False,
    plain_http: bool = False,
) -> None:
    """Pack a whole new set of images, without the layers that bundles at the site have brought.

    Example: ./invoke bundle.upgrade --base v1.2.0 --images images.yaml --name v1.3.0
    """
    from pipeline import bundle
    from pipeline.core import progress

    reach = _reach(ca, auth_file, insecure=insecure, plain_http=plain_http)
    options = _making(store, volume_size, chunk_size, key)
    with progress.session(BUILD / "logs/bundle-upgrade.log"), bundle.opened(map(_bundle_path, base)) as bases:
        listed = _images(images, from_release, release_mirror, release_signatures, reach)
        with bundle.upgrade(listed, name, bases, bundle.registries(reach), BUNDLES / bundle.STORE, options) as packed:
            print(bundle.outcome(packed))


@task(
    iterable=["bundle"], help=MAKE | {"bundle": BUNDLE + "; a full one first, then patches and upgrades in their order"}
)
@command
def bundle_compose(
    _context: Context,
    bundle: list[str],
    name: str = "",
    store: str = "plain",
    volume_size: str = "",
    chunk_size: str = "",
    key: str = "",
) -> None:
    """Make one full bundle of a full one and its patches; nothing is fetched.

    Example: ./invoke bundle.compose --bundle v1.2.0 --bundle v1.2.1 --name v1.2.1-full
    """
    from pipeline import bundle as room
    from pipeline.core import progress

    options = _making(store, volume_size, chunk_size, key)
    paths = map(_bundle_path, bundle)
    log = BUILD / "logs/bundle-compose.log"
    with (
        progress.session(log),
        room.opened(paths) as archives,
        room.compose(archives, name, options) as packed,
    ):
        print(room.outcome(packed))


@task(positional=["old", "new"], help={"old": BUNDLE, "new": "the newer one", "json": "as JSON"})
@command
def bundle_diff(_context: Context, old: str, new: str, json: bool = False) -> None:
    """Show how two bundles differ: images, layers, attachments.

    Example: ./invoke bundle.diff v1.2.0 v1.2.1
    """
    from pipeline import bundle

    found = bundle.diff(bundle.read(_bundle_path(old)), bundle.read(_bundle_path(new)))
    print(found.to_json() if json else found.text())


@task(
    help=REACH
    | WHAT
    | {
        "registry": "HOST[:PORT]: all that it holds, in place of a list",
        "sample": "look for what lean would save in so much of the layers (default: 256M)",
        "json": "as JSON",
    }
)
@command
def bundle_probe(
    _context: Context,
    images: str = "images.yaml",
    from_release: str = "",
    release_mirror: str = "",
    release_signatures: str = "",
    registry: str = "",
    sample: str = "256M",
    json: bool = False,
    ca: str = "",
    auth_file: str = "",
    insecure: bool = False,
    plain_http: bool = False,
) -> None:
    """Find out which program compressed each layer, and what a lean bundle would save.

    Example: ./invoke bundle.probe --registry registry.hq.example:5000
    """
    from pipeline import bundle
    from pipeline.core import progress
    from pipeline.core.units import parse_size

    reach = _reach(ca, auth_file, insecure=insecure, plain_http=plain_http)
    registries, work, size = bundle.registries(reach), BUNDLES / bundle.STORE, parse_size(sample)
    with progress.session(BUILD / "logs/bundle-probe.log"):
        if registry:
            found = bundle.probe_registry(registry, registries, work, sample=size)
        else:
            found = bundle.probe(
                _images(images, from_release, release_mirror, release_signatures, reach), registries, work, sample=size
            )
        print(found.to_json() if json else found.text())


@task(
    iterable=["base"],
    help=REACH
    | WHAT
    | {
        "base": BASE,
        "volume-size": MAKE["volume-size"],
        "link": "MB/s into the site's registry (default: 125, a gigabit)",
        "usb": "MB/s onto the disk that is carried (default: 60, USB 2)",
    },
)
@command
def bundle_plan(
    _context: Context,
    base: list[str],
    images: str = "images.yaml",
    from_release: str = "",
    release_mirror: str = "",
    release_signatures: str = "",
    volume_size: str = "",
    link: float = 125.0,
    usb: float = 60.0,
    ca: str = "",
    auth_file: str = "",
    insecure: bool = False,
    plain_http: bool = False,
) -> None:
    """Forecast a bundle's size and times, from the manifests alone.

    Example: ./invoke bundle.plan --images images.yaml --base v1.2.0 --volume-size 2G
    """
    from pipeline import bundle
    from pipeline.core import progress
    from pipeline.core.units import parse_size

    reach = _reach(ca, auth_file, insecure=insecure, plain_http=plain_http)
    volume, rates = parse_size(volume_size) if volume_size else None, bundle.Rates(link=link, usb=usb)
    with progress.session(BUILD / "logs/bundle-plan.log"), bundle.opened(map(_bundle_path, base)) as bases:
        listed = _images(images, from_release, release_mirror, release_signatures, reach)
        work, registries = BUNDLES / bundle.STORE, bundle.registries(reach)
        found = bundle.forecast(listed, registries, work, bases, volume_size=volume, rates=rates)
        print(found.text())


@task(positional=["bundle"], help={"bundle": BUNDLE, "key": PINNED})
@command
def bundle_list(_context: Context, bundle: str, key: str = "") -> None:
    """List what is in a bundle: images, platforms, volumes, and what the site must have.

    Example: ./invoke bundle.list v1.2.0
    """
    _at_the_site("list", bundle, key=key)


@task(positional=["bundle"], help={"bundle": BUNDLE, "key": PINNED})
@command
def bundle_verify(_context: Context, bundle: str, key: str = "") -> None:
    """Read all of a bundle and compare it with its hashes; needs no network.

    Example: ./invoke bundle.verify v1.2.0 --key bundle.pub
    """
    _at_the_site("verify", bundle, key=key)


@task(positional=["bundle"], help={"bundle": BUNDLE, "to": "directory of the OCI image layout", "key": PINNED})
@command
def bundle_expand(_context: Context, bundle: str, to: str = "", key: str = "") -> None:
    """Make an OCI image layout of a bundle, for other tools; of a patch, where its base was expanded.

    Example: ./invoke bundle.expand v1.2.0 --to /srv/layout
    """
    _at_the_site("expand", bundle, to=to, key=key)


@task(
    positional=["bundle"],
    help=REACH
    | {
        "bundle": BUNDLE,
        "to": TO,
        "key": PINNED,
        "parallel": "transfers at a time (default: 4)",
        "state": "directory of the journal, and of what prune needs (default: below XDG_STATE_HOME)",
        "site-files": "directory for what nodes need: hosts.toml, registries.conf, IDMS and ITMS (default: beside it)",
        "dry-run": "print what would be done and stop",
    },
)
@command
def bundle_sync(
    _context: Context,
    bundle: str,
    to: str = "",
    key: str = "",
    parallel: int = 0,
    state: str = "",
    site_files: str = "",
    dry_run: bool = False,
    ca: str = "",
    auth_file: str = "",
    insecure: bool = False,
    plain_http: bool = False,
) -> None:
    """Bring a bundle's images into the site's registry, and write what its nodes need; run again, it goes on.

    Example: ./invoke bundle.sync v1.2.0 --to registry.site.example:5000 --ca ca.pem
    """
    _at_the_site(
        "sync", bundle, to=to, key=key, parallel=str(parallel or ""), state=state, site_files=site_files, ca=ca,
        auth_file=auth_file, dry_run=dry_run, insecure=insecure, plain_http=plain_http,
    )  # fmt: skip


@task(
    iterable=["old", "keep"],
    help=REACH
    | {
        "to": "the site's registry: HOST[:PORT][/PREFIX]",
        "old": "bundle that is no longer needed: its directory, name, or bundle.json; may be given several times",
        "keep": "bundle that is in use; may be given several times",
        "dry-run": "print what would be removed and stop",
    },
)
@command
def bundle_prune(
    _context: Context,
    old: list[str],
    keep: list[str],
    to: str = "",
    dry_run: bool = False,
    ca: str = "",
    auth_file: str = "",
    insecure: bool = False,
    plain_http: bool = False,
) -> None:
    """Remove from the site's registry what only older bundles needed.

    Example: ./invoke bundle.prune --to registry.site.example:5000 --old v1.2.0 --keep v1.3.0 --dry-run
    """
    from pipeline import bundle
    from pipeline.core import progress

    reach = _reach(ca, auth_file, insecure=insecure, plain_http=plain_http)
    target = bundle.Target.parse(to, reach, bundle.state_directory())
    olds, kept = ([bundle.read(_bundle_path(one)) for one in names] for names in (old, keep))
    with progress.session(BUILD / "logs/bundle-prune.log"):
        plan = bundle.plan_prune(olds, kept, target.registry, target.prefix)
        print(plan.text())
        if not dry_run:
            print(bundle.prune(plan, target.registry).text())


# --- what invoke takes; a name without a dot is a command of node images, or of this project as a whole

ns = Collection(
    build,
    lock,
    matrix,
    scheduler,
    worker,
    report,
    doctor,
    list_images,
    verify,
    shell,
    inspect,
    diff,
    publish,
    fetch,
    clean,
    test,
    lint,
    benchmark,
)
ns.add_collection(
    Collection("installer", build=installer_build, lock=installer_lock, push=installer_push, show=installer_show)
)
ns.add_collection(Collection("cluster", render=cluster_render))
ns.add_collection(
    Collection(
        "bundle", pack=bundle_pack, patch=bundle_patch, upgrade=bundle_upgrade, compose=bundle_compose,
        diff=bundle_diff, probe=bundle_probe, plan=bundle_plan, list=bundle_list, verify=bundle_verify,
        expand=bundle_expand, sync=bundle_sync, prune=bundle_prune,
    )
)  # fmt: skip
