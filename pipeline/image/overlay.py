"""Overlays: named changes to a tree, as files, templates and scripts."""

from __future__ import annotations

import hashlib
import shutil
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.core import namespace, progress
from pipeline.core.cache import Json
from pipeline.core.errors import InputError, ToolError
from pipeline.image import tree

PARTS = ("root", "scripts")
TEMPLATE_SUFFIX = ".j2"
SCRIPTS_IN_TREE = "/run/overlay"


def digest(overlay: Path) -> str:
    """Return the sha256 of what counts of an overlay: names, contents, links and the one permission bit that git knows.

    Who owns the checkout, and with which umask it was made, is no input of an image.
    """
    total = hashlib.sha256()
    for part in PARTS:
        if (overlay / part).is_dir():
            for path, status in tree.walk(overlay / part):
                words = [f"{part}/{path}", *_meaning(overlay / part / path, status.st_mode)]
                total.update("\0".join(words).encode("utf-8", "surrogateescape") + b"\n")
    return total.hexdigest()


def _meaning(path: Path, mode: int) -> list[str]:
    if stat.S_ISDIR(mode):
        return ["directory"]
    if stat.S_ISLNK(mode):
        return ["link", str(path.readlink())]
    if stat.S_ISREG(mode):
        return ["program" if mode & stat.S_IXUSR else "file", tree.file_sha256(path)]
    raise InputError(f"{path} is neither a file nor a directory nor a link", hint="remove it from the overlay")


def apply(root: Path, overlay: Path, variables: Mapping[str, object], environment: Mapping[str, str]) -> None:
    """Apply one overlay to a mounted tree: first its files, then its scripts in order.

    Args:
        root: the tree.
        overlay: directory with ``root/`` and ``scripts/``, either of which may be missing.
        variables: what its templates may use.
        environment: what its scripts may use.

    Raises:
        InputError: a template cannot be rendered, or a file does not fit the tree.
        ToolError: a script failed.
    """
    with progress.step(f"overlay {overlay.name}"):
        _copy_files(root, overlay / "root", variables)
        for script in sorted((overlay / "scripts").glob("*.sh")):
            _run_script(root, script, environment)


def _copy_files(root: Path, files: Path, variables: Mapping[str, object]) -> None:
    if not files.is_dir():
        return
    for path, _ in tree.walk(files):
        source = files / path
        if source.is_dir() and not source.is_symlink():
            _make_directory(root, path)
        else:
            _copy_file(root, source, path, variables)


def _make_directory(root: Path, path: str) -> None:
    target = tree.inside(root, path)
    if target.exists() and not target.is_dir():
        raise InputError(f"an overlay has a directory {path}, but the tree has a file there", hint="rename one of them")
    target.mkdir(mode=0o755, parents=True, exist_ok=True)


def _copy_file(root: Path, source: Path, path: str, variables: Mapping[str, object]) -> None:
    """Put one file into the tree, owned by root; git knows only one permission bit, so that is all that counts."""
    target = tree.inside(root, str(Path(path).parent)) / source.name
    if source.suffix == TEMPLATE_SUFFIX and not source.is_symlink():
        target = target.with_name(target.stem)
    if target.is_dir() and not target.is_symlink():
        raise InputError(f"an overlay has {source}, but the tree has a directory there", hint="rename one of them")
    target.unlink(missing_ok=True)
    if source.is_symlink():
        target.symlink_to(source.readlink())
        return
    if source.suffix == TEMPLATE_SUFFIX:
        target.write_text(render(source, variables))
    else:
        shutil.copyfile(source, target)
    target.chmod(0o755 if source.stat().st_mode & stat.S_IXUSR else 0o644)


def render(source: Path, variables: Mapping[str, object]) -> str:
    """Return a template's text.

    Args:
        source: the template.
        variables: what it may use.

    Raises:
        InputError: it cannot be rendered; the message names the file and the cause.
    """
    import jinja2  # here, as nearly every command imports this module and few render

    environment = jinja2.Environment(  # noqa: S701  configuration files, not HTML
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True, trim_blocks=True, lstrip_blocks=True
    )
    try:
        return environment.from_string(source.read_text()).render(variables)
    except jinja2.TemplateSyntaxError as error:
        raise InputError(f"{source}:{error.lineno}: {error.message}", hint="correct the template") from error
    except (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        hint = f"a template is UTF-8 text, and may use: {', '.join(sorted(variables))}"
        raise InputError(f"{source}: {error}", hint=hint) from error


def _run_script(root: Path, script: Path, environment: Mapping[str, str]) -> None:
    inside = f"{SCRIPTS_IN_TREE}/{script.name}"
    with progress.step(script.name):
        try:
            namespace.in_tree(root, ["/bin/bash", inside], env=environment, binds=[(script, inside)], what=str(script))
        except ToolError as error:
            raise ToolError(error.message, hint=f"correct {script}; {error.hint}") from error


def variables_of(plan_values: Mapping[str, str], serial: str, kernel_arguments: Sequence[str]) -> dict[str, Json]:
    """Return what templates may use: the image's names, its serial console and kernel arguments."""
    return {**plan_values, "serial": serial, "kernel_arguments": list(kernel_arguments)}


def environment_of(plan_values: Mapping[str, str]) -> dict[str, str]:
    """Return the same names as environment variables of scripts, for example ``IMAGE_OS``."""
    return {f"IMAGE_{name.upper()}": value for name, value in plan_values.items()}
