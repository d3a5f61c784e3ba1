"""The first lines of ``bundle.pyz`` that run: they say so where Python is too old, and find what it carries."""

# ruff: noqa: PTH100, PTH118, PTH120, RUF001 - Chinese has its own punctuation
# Python 2 must be able to read this file, or it could not say what is needed.

import os
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

    return cli.main(sys.argv[1:], os.path.dirname(here))


if __name__ == "__main__":
    sys.exit(main())
