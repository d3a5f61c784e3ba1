"""The matrix: many images at once, each in a process of its own; one that fails stops no other."""

from pipeline.matrix.model import Report, Result, Workshop
from pipeline.matrix.run import build
from pipeline.matrix.show import print_report, print_selection

__all__ = ["Report", "Result", "Workshop", "build", "print_report", "print_selection"]
