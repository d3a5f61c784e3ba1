"""What Python 3.6 does not know, and can be seen in a module's tree.

The names come from "What's New in Python" 3.7 to 3.11. What these rules cannot see, a method of an object whose type
nobody knows, is left to vermin and to the tests.
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_HAS = "Python 3.6 has no {}"
SYNTAX = {
    ast.NamedExpr: "walrus (:=)",
    ast.Match: "match",
    ast.TryStar: "except*",
}
ATTRIBUTES = {
    "removeprefix", "removesuffix", "is_relative_to", "with_stem", "hardlink_to", "file_digest", "cached_property",
    "nullcontext", "aclosing", "asynccontextmanager", "StrEnum", "UTC", "fromisoformat", "fromisocalendar", "time_ns",
    "monotonic_ns", "perf_counter_ns", "process_time_ns", "thread_time_ns", "prod", "isqrt", "pairwise", "batched",
    "waitstatus_to_exitcode", "memfd_create", "copy_file_range", "randbytes", "isascii", "bit_count", "reconfigure",
    "ThreadingHTTPServer", "SimpleQueue", "create_server", "get_native_id", "strsignal", "to_thread", "add_note",
    "singledispatchmethod", "BooleanOptionalAction", "parse_intermixed_args", "data_filter", "extraction_filter",
}  # fmt: skip
OF_MODULES = {  # where an object may have the same name, only the module's is refused
    ("functools", "cache"), ("shlex", "join"), ("importlib", "resources"), ("importlib", "metadata"),
    ("math", "dist"), ("math", "comb"), ("math", "perm"), ("math", "lcm"), ("asyncio", "run"),
    ("dataclasses", "KW_ONLY"), ("dataclasses", "InitVar"),
}  # fmt: skip
MODULES = {"importlib.resources", "importlib.metadata", "zoneinfo", "tomllib", "graphlib", "_typeshed"}
KEYWORDS = {  # by the last word of what is called; * is anything
    "*": {"missing_ok", "cancel_futures", "capture_output", "dirs_exist_ok"},
    "zip": {"strict"},
    "map": {"strict"},
    "sum": {"start"},
    "run": {"text"}, "Popen": {"text"}, "check_output": {"text"}, "check_call": {"text"}, "call": {"text"},
    "dataclass": {"slots", "kw_only", "match_args", "weakref_slot"},
    "field": {"kw_only"},
    "hex": {"sep", "bytes_per_sep"},
    "extract": {"filter"}, "extractall": {"filter"},
    "add_subparsers": {"required"}, "ArgumentParser": {"exit_on_error"},
    "ThreadPoolExecutor": {"initializer", "initargs"},
    "bisect": {"key"}, "bisect_left": {"key"}, "bisect_right": {"key"}, "insort": {"key"},
    "basicConfig": {"force", "encoding"}, "rmtree": {"dir_fd", "onexc"},
}  # fmt: skip
TYPING = {  # what of it may be imported when the program runs
    "IO", "TYPE_CHECKING", "Any", "AnyStr", "BinaryIO", "Callable", "ClassVar", "Dict", "Generic", "Iterable",
    "Iterator", "List", "Mapping", "NewType", "NoReturn", "Optional", "Sequence", "Set", "TextIO", "Tuple", "Type",
    "TypeVar", "Union", "cast", "overload",
}  # fmt: skip
GENERICS = {"list", "dict", "tuple", "set", "frozenset", "type"}
GENERIC_MODULES = {"collections", "collections.abc", "contextlib", "contextvars", "queue", "re", "os", "subprocess"}
NUMBERS_AND_SETS = {"set", "frozenset", "int", "bool", "AbstractSet", "Set", "MutableSet", "KeysView"}


def faults(tree: ast.Module, known: set[str]) -> list[tuple[int, str]]:
    """Return what Python 3.6 would stumble over: line and words, in the order of the lines.

    Args:
        tree: a module without annotations.
        known: names of numbers and sets there, which ``|`` may join: see :func:`numbers_and_sets`.
    """
    finder = _Finder(known)
    finder.visit(tree)
    found = {*finder.found, *_module_getattr(tree)}
    return sorted(found)


def numbers_and_sets(tree: ast.Module) -> set[str]:
    """Return every name that a module uses for numbers or sets, by its annotations and its assignments.

    A name is taken for one thing in the whole module; who uses it for a dictionary elsewhere is not caught.
    """
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign) and _says_set(node.annotation):
            found.add(last_word(node.target))
        elif isinstance(node, ast.arg) and node.annotation is not None and _says_set(node.annotation):
            found.add(node.arg)
        elif isinstance(node, ast.FunctionDef) and node.returns is not None and _says_set(node.returns):
            found.add(node.name)
        elif isinstance(node, ast.Assign) and _is_set(node.value):
            found |= {last_word(target) for target in node.targets}
    return found - {""}


class _Finder(ast.NodeVisitor):
    def __init__(self, known: set[str]) -> None:
        self.found: list[tuple[int, str]] = []
        self._known, self._generics = known, set(GENERICS)

    def visit(self, node: ast.AST) -> None:
        name = SYNTAX.get(type(node))
        if name is not None:
            self._say(node, _HAS.format(name))
        super().visit(node)

    def _say(self, node: ast.AST, text: str) -> None:
        self.found.append((getattr(node, "lineno", 0), text))

    # --- statements

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if node.name == "__class_getitem__":
            self._say(node, _HAS.format("__class_getitem__"))
        self._decorators(node.decorator_list)
        self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._decorators(node.decorator_list)
        for base in node.bases:
            if last_word(base) in {"NamedTuple", "TypedDict", "Protocol"}:
                self._say(node, f"{last_word(base)} needs what the lowering removes: use a dataclass or abc.ABC")
        self.generic_visit(node)

    def _decorators(self, decorators: list[ast.expr]) -> None:
        for decorator in decorators:
            inner = decorator.func if isinstance(decorator, ast.Call) else decorator
            if not _dotted(inner):
                self._say(decorator, "Python 3.6 has only names and their calls as decorators")

    def visit_arguments(self, node: ast.arguments) -> None:
        if node.posonlyargs:
            self._say(node.posonlyargs[0], _HAS.format("positional-only arguments (/)"))
        self.generic_visit(node)

    def visit_Try(self, node: ast.Try) -> None:
        for statement in node.finalbody:
            if isinstance(statement, ast.Continue):  # deeper down the compiler of the oldest Python in the tests looks
                self._say(statement, "Python 3.6 has no continue in finally")
        self.generic_visit(node)

    # --- names

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            if alias.name in MODULES:
                self._say(node, _HAS.format(alias.name))

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        module = node.module or ""
        if module in MODULES:
            self._say(node, _HAS.format(module))
        for alias in node.names:
            if module == "typing" and alias.name not in TYPING:
                self._say(node, f"typing.{alias.name} when the program runs: import it if TYPE_CHECKING")
            elif (module, alias.name) in OF_MODULES or (alias.name in ATTRIBUTES and not _ours(module)):
                self._say(node, _HAS.format(f"{module}.{alias.name}"))
            elif module in GENERIC_MODULES and _generic(alias.name):
                self._generics.add(alias.asname or alias.name)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        module = _dotted(node.value)
        if (module, node.attr) in OF_MODULES or node.attr in ATTRIBUTES:
            self._say(node, _HAS.format(f"{module or '...'}.{node.attr}"))
        elif node.attr == "readlink" and module != "os":
            self._say(node, _HAS.format("Path.readlink: use os.readlink"))
        elif module == "typing" and node.attr not in TYPING:
            self._say(node, _HAS.format(f"typing.{node.attr}"))
        self.generic_visit(node)

    # --- expressions

    def visit_Call(self, node: ast.Call) -> None:
        name = last_word(node.func)
        for keyword in node.keywords:
            if keyword.arg in KEYWORDS["*"] | KEYWORDS.get(name, set()):
                self._say(keyword.value, _HAS.format(f"{name}({keyword.arg}=)"))
        for method, module in (("hex", "float"), ("unlink", "os")):  # the module's own takes an argument everywhere
            called = isinstance(node.func, ast.Attribute) and name == method and node.args
            if called and _dotted(node.func) != f"{module}.{method}":
                self._say(node, _HAS.format(f"an argument of {method}()"))
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        name = _dotted(node.value)
        module, _, last = name.rpartition(".")
        if name in self._generics or (module in GENERIC_MODULES and _generic(last)):
            self._say(node, f"Python 3.6 cannot evaluate {name}[...]")
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if isinstance(node.op, ast.BitOr):
            self._join(node, node.left, node.right)
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if isinstance(node.op, ast.BitOr):
            self._join(node, node.target, node.value)
        self.generic_visit(node)

    def _join(self, node: ast.AST, *sides: ast.expr) -> None:
        if not any(self._number_or_set(side) for side in sides) or any(_is_dict(side) for side in sides):
            self._say(node, "| joins numbers and sets only; if it does so here, annotate one side so that it is seen")

    def _number_or_set(self, side: ast.expr) -> bool:
        if isinstance(side, ast.BinOp) and isinstance(side.op, ast.BitOr | ast.BitAnd | ast.Sub | ast.LShift):
            return self._number_or_set(side.left) or self._number_or_set(side.right)
        if isinstance(side, ast.Attribute) and side.attr.isupper():  # os.O_RDONLY, re.DOTALL
            return True
        if isinstance(side, ast.Call):
            return _is_set(side) or last_word(side.func) in self._known
        return _is_set(side) or last_word(side) in self._known


def _module_getattr(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name in {"__getattr__", "__dir__"}:
            yield node.lineno, _HAS.format(f"{node.name} of a module")


def _ours(module: str) -> bool:
    return module.partition(".")[0] == "pipeline"


def _dotted(node: ast.AST) -> str:
    """Return ``a.b.c`` for such an expression; empty for any other."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        front = _dotted(node.value)
        return f"{front}.{node.attr}" if front else ""
    return ""


def last_word(node: ast.AST) -> str:
    """Return ``c`` for ``a.b.c`` and ``a.b.c[d]``; empty for any other expression."""
    if isinstance(node, ast.Subscript):
        return last_word(node.value)
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _says_set(annotation: ast.expr) -> bool:
    return last_word(annotation) in NUMBERS_AND_SETS


def _is_set(value: ast.expr) -> bool:
    if isinstance(value, ast.Call):
        return last_word(value.func) in {"set", "frozenset", "keys"}
    return isinstance(value, ast.Set | ast.SetComp) or (isinstance(value, ast.Constant) and type(value.value) is int)


def _is_dict(value: ast.expr) -> bool:
    called = last_word(value.func) if isinstance(value, ast.Call) else ""
    return isinstance(value, ast.Dict | ast.DictComp) or called == "dict"


def _generic(name: str) -> bool:
    return name[:1].isupper() or name in {"deque", "defaultdict"}
