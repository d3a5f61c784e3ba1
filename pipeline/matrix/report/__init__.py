"""One self-contained HTML page about all images of a build directory."""

from pipeline.matrix.report.page import Written, write

__all__ = ["Written", "write"]
