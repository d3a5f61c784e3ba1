"""The first lines of ``bundle.pyz`` that run: they say so where Python is too old, and find what it carries."""

# ruff: noqa: PTH100, PTH118, PTH120, RUF001 - Chinese has its own punctuation
# Python 2 must be able to read this file, or it could not say what is needed.

import importlib
import os
import pkgutil
import sys

TOO_OLD = (
    "错误：需要 Python 3.6 或更高版本，当前为 {0}。请改用 python3 或更新的解释器运行。\n"
    "error: this is Python {0}, and 3.6 or later is needed\n"
    "hint: run it with python3, or name a newer interpreter\n"
)
MISSING = 3  # exit code, as pipeline.core.errors has it


def main() -> int:
    """Find what this file carries, and run the command line; returns the exit code."""
    if sys.version_info < (3, 6):  # noqa: UP036 - this is where it is said
        sys.stderr.write(TOO_OLD.format("{0[0]}.{0[1]}".format(sys.version_info)))  # noqa: UP032
        return MISSING
    here = os.path.dirname(os.path.abspath(__file__))  # bundle.pyz
    sys.path.insert(0, os.path.join(here, "vendor"))  # what the machine has may be of any age
    sys.path.append(os.path.join(here, "backports"))  # the interpreter's own come first
    from pipeline.bundle.field import cli

    return cli.main(sys.argv[1:], os.path.dirname(here), load)


def load() -> None:
    """Import everything that this file carries and that is imported where it is used.

    Up to Python 3.9, two threads that import one module out of a zip file at once may see half of it: nothing tells the
    second one that the first is not done (zipimport has no find_spec before 3.10).
    """
    import pipeline

    for _, name, _ in pkgutil.walk_packages(pipeline.__path__, "pipeline."):
        importlib.import_module(name)
    importlib.import_module("idna")  # requests imports it for the names of some hosts


if __name__ == "__main__":
    sys.exit(main())
