"""The command line of ``bundle.pyz``: ``python3 bundle.pyz list|verify|expand|sync``; headquarters have the same."""

from __future__ import annotations

import argparse
import codecs
import contextlib
import io
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pipeline.bundle.field.messages import LANGUAGES, Messages, language_of
from pipeline.core import console, progress
from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pipeline.bundle.archive import Archive
    from pipeline.oci import RegistryOptions

# What a command needs is imported when it runs: out of a zip file that takes its time.

PROGRAM = "bundle.pyz"
EXAMPLES = {
    "list": "python3 bundle.pyz list",
    "verify": "python3 bundle.pyz verify --key bundle.pub",
    "expand": "python3 bundle.pyz expand --to /data/images",
    "sync": "python3 bundle.pyz sync --to registry.site.example:5000/mirror --ca ca.pem --auth-file auth.json",
}
THREADED = {"verify", "expand", "sync"}
PARALLEL = 4
TELL_SECONDS = 5.0  # between two lines about one long piece of work
GRACE_SECONDS = 3.0  # that threads get to end when the user interrupts
GONE = 141  # exit code when who reads our output has gone, as a shell reports SIGPIPE


def main(argv: Sequence[str], folder: str, prepare: Callable[[], None] = lambda: None) -> int:
    """Run one command.

    Args:
        argv: the words after the program's name.
        folder: directory that the program lies in: the bundle's, unless another one is named.
        prepare: called before work that threads share.

    Returns:
        0; everything else leaves by SystemExit, with the codes of :mod:`pipeline.core.errors`.
    """
    _speak_unicode()
    say = Messages(_language(argv))
    _end_soon_when_interrupted(say)
    with console.ending(say.explain):
        with _a_reader_may_go():
            options = _parser(say, folder).parse_args(argv)
        if options.command is None:
            raise InputError("no command is given", hint=f"see: python3 {PROGRAM} --help")
        if options.command in THREADED:
            prepare()
        with progress.session():
            COMMANDS[options.command](say, options)
    return 0


# --- the commands


def _opened(options: argparse.Namespace) -> Archive:
    from pipeline.bundle.archive import Archive

    return Archive.open(options.bundle, key=options.key)


def _list(_say: Messages, options: argparse.Namespace) -> None:
    from pipeline.bundle import listing

    with _opened(options) as archive:
        _print(listing.text(archive.bundle))


def _verify(say: Messages, options: argparse.Namespace) -> None:
    from pipeline.bundle.verify import verify

    with _opened(options) as archive:
        with progress.step(say("verifying", name=archive.bundle.name)):
            report = verify(archive, _teller(say))
        size = _human(report.bytes)
        _print(say("verified", name=report.name, id=report.id))
        _print(say("counted", volumes=report.volumes, blobs=report.blobs, size=size, images=report.images))
        if report.needed:
            _print(say("needed", blobs=report.needed))
        _print(say("signed" if report.is_signed else "unsigned"))


def _expand(say: Messages, options: argparse.Namespace) -> None:
    from pipeline.bundle.expand import expand

    with _opened(options) as archive:
        with progress.step(say("expanding", name=archive.bundle.name, to=options.to)):
            summary = expand(archive, options.to, _teller(say))
        _print(summary.text())
        _print(say("expanded", name=archive.bundle.name, to=options.to))


def _sync(say: Messages, options: argparse.Namespace) -> None:
    from pipeline.bundle import site_files
    from pipeline.bundle.sync import sync
    from pipeline.bundle.sync_plan import Target, make_plan

    target = Target.parse(options.to, _registry_options(options), options.state)
    with _opened(options) as archive:
        with progress.step(say("planning", host=target.registry.host)):
            plan = make_plan(archive, target)
        _print(plan.text())
        if options.dry_run:
            _print(say("nothing-written"))
            return
        with progress.step(say("syncing", name=archive.bundle.name, host=options.to)):
            summary = sync(archive, target, plan)
        _print(summary.text())
        _print(say("synced", name=archive.bundle.name, host=options.to))
        out = options.site_files or target.state / "site-files"
        _print(say("written"))
        for path in site_files.write(
            archive.bundle,
            target.registry.host,
            target.prefix,
            out,
            options.ca,
            plain_http=options.plain_http,
            insecure=options.insecure,
        ):
            _print(f"  {path}")


def _registry_options(options: argparse.Namespace) -> RegistryOptions:
    from pipeline.oci import RegistryOptions, find_auth_file

    if options.parallel < 1:
        raise InputError(f"--parallel {options.parallel}: not a number of blobs", hint="name 1 or more")
    if not (options.ca or options.insecure or options.plain_http or _has_authorities()):
        hint = "name the certificate of the authority that signed for the registry with --ca"
        raise InputError("this machine has no certificates of authorities", hint=hint)
    return RegistryOptions(
        ca=options.ca,
        insecure_tls=options.insecure,
        plain_http=options.plain_http,
        auth_file=options.auth_file or find_auth_file(),
        parallel=options.parallel,
    )


def _has_authorities() -> bool:
    """Return whether requests finds certificates that it may believe; without any it raises what nobody expects."""
    import requests

    from pipeline.core import network

    named = any(os.environ.get(name) for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"))
    return named or network.authorities() is not True or Path(requests.utils.DEFAULT_CA_BUNDLE_PATH).is_file()


COMMANDS: dict[str, Callable[[Messages, argparse.Namespace], None]] = {
    "list": _list,
    "verify": _verify,
    "expand": _expand,
    "sync": _sync,
}


# --- the words after the program's name


class _Parser(argparse.ArgumentParser):
    """Says what is wrong as the rest of the program does."""

    def error(self, message: str) -> NoReturn:
        raise InputError(message, hint=f"see: python3 {self.prog} --help")


def _language(argv: Sequence[str]) -> str:
    """Return the language that is asked for, wherever among the words; else that of the locale."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--lang", nargs="?")
    asked = early.parse_known_args(list(argv))[0].lang
    return asked if asked in LANGUAGES else language_of()


def _parser(say: Messages, folder: str) -> argparse.ArgumentParser:
    parser = _Parser(prog=PROGRAM, description=say("program"), add_help=False, formatter_class=_formatter(say))
    _options(parser, say)
    commands = parser.add_subparsers(dest="command", title=say("commands"), metavar="COMMAND", prog=PROGRAM)
    for name, arguments in (("list", None), ("verify", None), ("expand", _expand_options), ("sync", _sync_options)):
        example = f"{say('example')}\n  {EXAMPLES[name]}"
        one = commands.add_parser(
            name,
            help=say(name),
            description=say(name),
            epilog=example,
            add_help=False,
            formatter_class=_formatter(say),
        )
        one.add_argument_group(say("arguments")).add_argument(
            "bundle", metavar="BUNDLE", nargs="?", type=Path, default=Path(folder), help=say("bundle")
        )
        group = _options(one, say)
        group.add_argument("--key", metavar="FILE", type=Path, help=say("key"))
        if arguments is not None:
            arguments(group, say)
    return parser


def _options(parser: argparse.ArgumentParser, say: Messages) -> argparse._ArgumentGroup:
    group = parser.add_argument_group(say("options"))
    group.add_argument("-h", "--help", action="help", help=say("help"))
    group.add_argument("--lang", choices=LANGUAGES, default=argparse.SUPPRESS, help=say("lang"))
    return group


def _expand_options(group: argparse._ArgumentGroup, say: Messages) -> None:
    group.add_argument("--to", metavar="DIRECTORY", type=Path, required=True, help=say("expand.to"))


def _sync_options(group: argparse._ArgumentGroup, say: Messages) -> None:
    from pipeline.bundle.journal import state_directory

    state = state_directory()
    default = str(state).replace("%", "%%")  # argparse fills in
    group.add_argument("--to", metavar="HOST[:PORT][/PREFIX]", required=True, help=say("sync.to"))
    group.add_argument("--ca", metavar="FILE", type=Path, help=say("ca"))
    group.add_argument("--auth-file", metavar="FILE", type=Path, help=say("auth-file"))
    group.add_argument("--insecure", action="store_true", help=say("insecure"))
    group.add_argument("--plain-http", action="store_true", help=say("plain-http"))
    group.add_argument("--state", metavar="DIRECTORY", type=Path, default=state, help=say("state", default=default))
    group.add_argument("--parallel", metavar="N", type=int, default=PARALLEL, help=say("parallel", default=PARALLEL))
    group.add_argument("--dry-run", action="store_true", help=say("dry-run"))
    group.add_argument("--site-files", metavar="DIRECTORY", type=Path, help=say("site-files"))


def _formatter(say: Messages) -> type[argparse.HelpFormatter]:
    class Formatter(argparse.RawDescriptionHelpFormatter):
        """Help in the user's language."""

        def add_usage(self, usage: Any, actions: Any, groups: Any, prefix: Any = None) -> None:  # noqa: ANN401
            super().add_usage(usage, actions, groups, say("usage") if prefix is None else prefix)

    return Formatter


# --- the terminal


def _end_soon_when_interrupted(say: Messages) -> None:
    """Let Ctrl-C end what runs in good order, but not wait for a registry that does not answer.

    What is left then is what a killed process leaves: the journal and the layout directory are made for that.
    """

    def leave() -> None:
        sys.stderr.write("\n".join(filter(None, (say.explain(console.INTERRUPTED), "error: interrupted", ""))))
        sys.stderr.flush()
        os._exit(console.INTERRUPTED)

    def interrupted(_signal: int, _frame: object) -> None:
        timer = threading.Timer(GRACE_SECONDS, leave)
        timer.daemon = True
        timer.start()
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, interrupted)


def _speak_unicode() -> None:
    """Let our output hold any letter: Python 3.6 takes a locale of the C kind for ASCII, and would fail at 现场."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        known = codecs.lookup(stream.encoding).name if stream is not None else "utf-8"
        if known == "utf-8":
            continue
        encoding = "utf-8" if known == "ascii" else known
        wrapped = io.TextIOWrapper(stream.detach(), encoding, "backslashreplace", line_buffering=True)
        setattr(sys, name, wrapped)


def _print(text: str) -> None:
    with _a_reader_may_go():
        sys.stdout.write(text.rstrip("\n") + "\n")


@contextlib.contextmanager
def _a_reader_may_go() -> Iterator[None]:
    """End quietly if nobody reads our output any more, as in ``list | head``."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more when it ends
        raise SystemExit(GONE) from None


def _teller(say: Messages) -> Callable[[str, int, int], None]:
    """Return what tells how far a long piece of work is: each line goes to the log, now and then one is shown."""
    shown = [time.monotonic()]

    def tell(what: str, done: int, total: int) -> None:
        line = say("part", what=what, percent=done * 100 // max(total, 1), size=_human(total))
        progress.log(line)
        if time.monotonic() - shown[0] >= TELL_SECONDS:
            shown[0] = time.monotonic()
            progress.note(line)

    return tell


def _human(size: int) -> str:
    """Return bytes as people read them."""
    value, unit = float(size), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
