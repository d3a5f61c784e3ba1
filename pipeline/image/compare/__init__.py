"""Two images compared: what differs, for a terminal and as a page."""

from pipeline.image.compare.compare import compare, locate
from pipeline.image.compare.model import Difference
from pipeline.image.compare.page import html, write_html
from pipeline.image.compare.report import print_text, text

__all__ = ["Difference", "compare", "html", "locate", "print_text", "text", "write_html"]
