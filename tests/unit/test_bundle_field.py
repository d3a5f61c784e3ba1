"""bundle.pyz: what lowering drops and refuses, what is packed, and what is said in two languages."""

# ruff: noqa: RUF001 - Chinese has its own punctuation
from __future__ import annotations

import ast
import contextvars
import io
import re
import string
import subprocess
import sys
import textwrap
import threading
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from pipeline.bundle.field import contextvars_36, messages, readme, zipapp
from pipeline.bundle.field.lower import LoweringError, lower
from pipeline.bundle.field.messages import TEXTS, Messages, language_of
from pipeline.bundle.model import Base, Blob, Bundle, BundleName, Needed, Volume
from pipeline.core import errors


def code(text: str) -> str:
    return textwrap.dedent(text).strip() + "\n"


@pytest.mark.parametrize(
    ("source", "lowered"),
    [
        ("from __future__ import annotations, generators\n", "from __future__ import generators\n"),
        ("def f(a: int | None, *b: str, c: list[int] = 3, **d: X) -> None: ...", "def f(a, *b, c=3, **d):\n    ..."),
        ("async def f(a: int) -> int: ...", "async def f(a):\n    ..."),
        ("x: dict[str, int] = {}", "x = {}"),
        ("x: int", ""),
        ("def f():\n    x: int", "def f():\n    pass"),
        ("self.x: list[int] = []", "self.x = []"),
        ("class A:\n    code: ClassVar[int] = 3\n    name: str", "class A:\n    code = 3"),
        ("class A:\n    name: str", "class A:\n    pass"),
        (
            """
            @dataclass(frozen=True)
            class A:
                name: str | None
                other: list[int] = field(default_factory=list)
                count: ClassVar[int] = 1
                def f(self):
                    x: int = 1
            """,
            """
            @dataclass(frozen=True)
            class A:
                name: object
                other: object = field(default_factory=list)
                count = 1

                def f(self):
                    x = 1
            """,
        ),
        ("if TYPE_CHECKING:\n    import a", ""),
        ("if typing.TYPE_CHECKING:\n    import a\nelse:\n    import b\n    x: int = 1", "import b\nx = 1"),
        ("def f():\n    if TYPE_CHECKING:\n        import a", "def f():\n    pass"),
        ("with a:\n    x: int", "with a:\n    pass"),
        ("with (a, b as c):\n    pass", "with a, b as c:\n    pass"),
        ("def f():\n    return *a, b", "def f():\n    return tuple([*a, b])"),
        ("f(lambda x: x, (1, 2))", "f(lambda x: x, (1, 2))"),
        ('x = f"{a!r:>{b}} {c}"', "x = f'{a!r:>{b}} {c}'"),
    ],
)
def test_what_only_type_checkers_read_goes(source: str, lowered: str) -> None:
    assert lower(code(source), "module.py").strip() == code(lowered).strip()


@pytest.mark.parametrize(
    "source",
    [
        "found: set[str] = set()\nfound |= other()",
        "flags = os.O_RDONLY | os.O_CLOEXEC",
        "mode = stat.S_IFREG | 0o644",
        "def f(known: set[str]): return known | g()",
        "def names() -> set[str]: ...\nx: set[str]\ny = a | names()",
        "A = frozenset({1})\nB = A | {2} | C",
        "os.readlink(path)",
        "os.unlink(path)",
        "x.hex()",
        "float.hex(1.0)",
        "spinner.update(text=text)",
        "path.resolve(strict=True)",
        "sorted(a, key=b)",
        "os.environ['A'] + environ['B']",
        "from collections import OrderedDict, deque\nx = deque(); x[0]",
        "from typing import IO, Any, cast\nx = cast('IO[bytes]', y)",
        "from pipeline.core import cache\ncache.cache_root()",
        "progress.step('a').join(b)",
        "from __future__ import annotations\nasync def f(): ...",
        "try:\n    pass\nfinally:\n    for x in y:\n        continue",
    ],
)
def test_what_python_3_6_knows_goes_through(source: str) -> None:
    lower(source, "module.py")


@pytest.mark.parametrize(
    ("source", "line", "words"),
    [
        ("\nif (x := f()): pass", 2, "walrus"),
        ("match x:\n    case 1: pass", 1, "match"),
        ("def f(a, /): pass", 1, "positional-only"),
        ("lambda a, /: 1", 1, "positional-only"),
        ("try: pass\nexcept* A: pass", 1, "except*"),
        ("try:\n    pass\nfinally:\n    continue", 4, "continue in finally"),
        ("@a[0].b\ndef f(): pass", 1, "decorators"),
        ("x = a | b", 1, "joins numbers and sets only"),
        ("A = {}\nx = A | {'b': 1}", 2, "joins numbers and sets only"),
        ("x = {} | y", 1, "joins numbers and sets only"),
        ("x |= dict(y)", 1, "joins numbers and sets only"),
        ("Argument = str | Path", 1, "joins numbers and sets only"),
        ("isinstance(x, int | str)", 1, "joins numbers and sets only"),
        ("x: set[str] = set()\nx |= {'a': 1}", 2, "joins numbers and sets only"),
        ("a.removeprefix('b')", 1, "removeprefix"),
        ("a.removesuffix('b')", 1, "removesuffix"),
        ("path.unlink(missing_ok=True)", 1, "unlink(missing_ok=)"),
        ("path.unlink(True)", 1, "an argument of unlink()"),
        ("data.hex(':')", 1, "an argument of hex()"),
        ("data.hex(sep=':')", 1, "hex(sep=)"),
        ("pool.shutdown(cancel_futures=True)", 1, "shutdown(cancel_futures=)"),
        ("zip(a, b, strict=True)", 1, "zip(strict=)"),
        ("subprocess.run(a, capture_output=True)", 1, "run(capture_output=)"),
        ("subprocess.Popen(a, text=True)", 1, "Popen(text=)"),
        ("hashlib.file_digest(f, 'sha256')", 1, "hashlib.file_digest"),
        ("from functools import cached_property", 1, "functools.cached_property"),
        ("from functools import cache", 1, "functools.cache"),
        ("functools.cache(f)", 1, "functools.cache"),
        ("contextlib.nullcontext()", 1, "contextlib.nullcontext"),
        ("path.is_relative_to(b)", 1, "is_relative_to"),
        ("path.readlink()", 1, "readlink"),
        ("datetime.datetime.now(datetime.UTC)", 1, "datetime.UTC"),
        ("datetime.datetime.fromisoformat(x)", 1, "fromisoformat"),
        ("time.monotonic_ns()", 1, "monotonic_ns"),
        ("class A(enum.StrEnum): pass", 1, "StrEnum"),
        ("@dataclass(slots=True)\nclass A: pass", 1, "dataclass(slots=)"),
        ("@dataclass(frozen=True, kw_only=True)\nclass A: pass", 1, "dataclass(kw_only=)"),
        ("archive.extractall(filter='data')", 1, "extractall(filter=)"),
        ("import importlib.resources", 1, "importlib.resources"),
        ("from importlib import resources", 1, "importlib.resources"),
        ("from typing import Protocol", 1, "typing.Protocol"),
        ("from typing import TypeAlias", 1, "typing.TypeAlias"),
        ("x = typing.Literal['a']", 1, "typing.Literal"),
        ("class A(NamedTuple): pass", 1, "NamedTuple"),
        ("math.prod(x)", 1, "math.prod"),
        ("shutil.copytree(a, b, dirs_exist_ok=True)", 1, "copytree(dirs_exist_ok=)"),
        ("shlex.join(x)", 1, "shlex.join"),
        ("x = cast(list[int], y)", 1, "list[...]"),
        ("x = collections.deque[int]()", 1, "collections.deque[...]"),
        ("from collections.abc import Mapping\nclass A(Mapping[str, int]): pass", 2, "Mapping[...]"),
        ("def __getattr__(name): pass", 1, "__getattr__ of a module"),
        ("parser.add_subparsers(required=True)", 1, "add_subparsers(required=)"),
    ],
)
def test_what_python_3_6_lacks_is_refused_by_line(source: str, line: int, words: str) -> None:
    with pytest.raises(LoweringError) as refused:
        lower(source, "some/module.py")
    assert f"some/module.py:{line}: " in refused.value.message
    assert words in refused.value.message


def test_every_fault_of_a_module_is_named_at_once() -> None:
    with pytest.raises(LoweringError) as refused:
        lower("a.removeprefix('b')\nx = y | z\n", "m.py")
    assert [line.split(" ")[0] for line in refused.value.message.splitlines()] == ["m.py:1:", "m.py:2:"]


# --- what is packed


@pytest.fixture(scope="module")
def members() -> dict[str, bytes]:
    return zipapp.own_members()


def test_what_is_packed_needs_nothing_newer_than_python_3_6(members: dict[str, bytes], tmp_path: Path) -> None:
    for name, data in members.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    vermin = Path(sys.executable).with_name("vermin")
    words = ["-t=3.6-", "--backport", "dataclasses", "--backport", "contextvars", "--no-tips", "-vvv"]
    done = subprocess.run([vermin, *words, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_headquarters_stay_at_home(members: dict[str, bytes]) -> None:
    packed = {name for name in members if name.startswith("pipeline/")}
    assert {"pipeline/bundle/field/cli.py", "pipeline/bundle/archive.py", "pipeline/oci/registry.py"} <= packed
    home = ("download", "cache", "namespace", "helper", "pack", "assemble", "images", "lean_write", "zipapp", "lower")
    assert [name for name in packed if Path(name).stem in home] == []
    assert members["pipeline/bundle/__init__.py"] == b""


def test_every_import_of_ours_is_packed(members: dict[str, bytes]) -> None:
    known = {name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in members}
    for name, data in members.items():
        assert set(zipapp._imported(ast.parse(data))) <= known, name


def test_the_same_members_are_the_same_bytes_and_run(tmp_path: Path) -> None:
    members = {"b.py": b"text = 'found'", "__main__.py": b"import b; print(b.text)", "a/data": bytes(1000)}
    made = zipapp.zipped(members)
    assert made == zipapp.zipped(dict(reversed(members.items())))
    with zipfile.ZipFile(io.BytesIO(made)) as archive:
        assert archive.namelist() == sorted(members)
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    path = tmp_path / "x.pyz"
    path.write_bytes(made)
    path.chmod(0o755)
    assert subprocess.run([path], capture_output=True, text=True, check=True).stdout == "found\n"


def test_an_older_python_is_told_what_is_needed(tmp_path: Path) -> None:
    main = tmp_path / "__main__.py"
    main.write_bytes(zipapp.stand_ins()["__main__.py"])
    ast.parse(main.read_text(), feature_version=(3, 4))
    code = f"import runpy, sys; sys.version_info = (2, 7, 18); runpy.run_path({str(main)!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (3, "")
    assert "需要 Python 3.6 或更高版本，当前为 2.7" in done.stderr
    assert "error: this is Python 2.7, and 3.6 or later is needed" in done.stderr


@pytest.mark.parametrize("module", [contextvars, contextvars_36])
def test_the_stand_in_for_contextvars_does_what_the_real_one_does(module: ModuleType) -> None:
    bare, given = module.ContextVar("bare"), module.ContextVar("given", default=1)
    with pytest.raises(LookupError):
        bare.get()
    assert (bare.get(None), given.get(), given.get(2)) == (None, 1, 2)
    first = bare.set("a")
    second = bare.set("b")
    context = module.copy_context()
    seen: list[object] = []

    def elsewhere() -> None:
        seen.append(bare.get("nothing"))
        context.run(lambda: seen.append(bare.get()))
        context.run(bare.set, "c")
        context.run(lambda: seen.append(bare.get()))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == ["nothing", "b", "c"]
    assert bare.get() == "b"
    bare.reset(second)
    assert bare.get() == "a"
    bare.reset(first)
    assert bare.get("none") == "none"


# --- what is said


@pytest.mark.parametrize("key", sorted(TEXTS))
def test_every_text_is_there_in_both_languages(key: str) -> None:
    english, chinese = TEXTS[key]
    assert english.isascii()
    assert re.search(r"[\u4e00-\u9fff]", chinese)
    assert not re.search(r"[,;!?]|: ", chinese), "Chinese has its own punctuation"
    fields = [sorted(field for _, field, _, _ in string.Formatter().parse(text) if field) for text in TEXTS[key]]
    assert fields[0] == fields[1]


def test_every_kind_of_fault_has_its_words() -> None:
    codes = {kind.exit_code for kind in errors.PipelineError.__subclasses__() if kind.__module__ == errors.__name__}
    assert codes | {errors.PipelineError.exit_code, 130} == set(messages.FAULTS)
    assert {f"fault.{code}" for code in messages.FAULTS} == {key for key in TEXTS if key.startswith("fault.")}


def test_every_text_is_used() -> None:
    sources = "".join((zipapp.HERE / name).read_text() for name in ("cli.py", "page.py"))
    used = set(re.findall(r"""say\(\s*f?["']([a-z.-]+)["']""", sources))
    computed = {key for key in TEXTS if key.startswith(("fault.", "kind."))} | {"list", "verify", "expand", "sync"}
    computed |= {"signed", "unsigned"}
    assert used | computed == set(TEXTS)


@pytest.mark.parametrize(
    ("environment", "language"),
    [
        ({}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LANG": "en_US.UTF-8", "LC_MESSAGES": "zh_CN"}, "zh"),
        ({"LANG": "zh_TW.Big5", "LC_ALL": ""}, "zh"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
    ],
)
def test_the_language_is_that_of_the_locale(environment: dict[str, str], language: str) -> None:
    assert language_of(environment) == language


def test_a_fault_is_explained_in_chinese_only() -> None:
    assert Messages("zh").explain(5).startswith("存储故障：")
    assert Messages("zh").explain(99) == Messages("en").explain(5) == ""


# --- the page beside a bundle


def bundle(kind: str) -> Bundle:
    needed = () if kind == "full" else (Needed("sha256:" + "2" * 64, 5, ("a/b",)),)
    base = Base((BundleName("sha256:" + "1" * 64, "v1.1.0"),), needed) if needed else Base()
    volumes = tuple(Volume(f"v1.2.0.bundle.00{number}", 1_000_000 + number, "3" * 64) for number in (1, 2))
    blobs = (Blob("sha256:" + "4" * 64, 1234567, "plain"),)
    return Bundle(kind, "v1.2.0", "2026-11-25T03:00:00Z", "plain", (), blobs, base, volumes)


@pytest.mark.parametrize("kind", ["full", "patch", "upgrade"])
def test_the_page_says_what_it_is_and_what_to_do(kind: str) -> None:
    made = bundle(kind)
    text = readme(made).decode()
    chinese, english = text.split("\n---\n")
    for part in (chinese, english):
        assert made.id in part
        assert "| v1.2.0.bundle.002 | 1,000,002 |" in part
        assert "1,234,567" in part
        assert ("v1.1.0" in part) == (kind != "full")
        assert "sha256sum -c SHA256SUMS" in part
        assert "bundle.pyz sync --to" in part
        assert all(f"| {code} | " in part for code in messages.FAULTS)
        assert "$" not in part
    assert TEXTS[f"kind.{kind}"] == (
        re.search(r"\| kind \| (.*) \|", english)[1],  # type: ignore[index]
        re.search(r"\| 类型 \| (.*) \|", chinese)[1],  # type: ignore[index]
    )
