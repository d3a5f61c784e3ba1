"""The lowering to Python 3.6: what is dropped, what is refused, and that everything the field gets goes through it."""

from __future__ import annotations

import textwrap

import pytest

from pipeline.bundle.field.lower import LoweringError, lower


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
