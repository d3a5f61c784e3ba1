"""Side by side with mkosi and diskimage-builder: the same Debian node image, made by each and booted.

The front door: ``write_report`` measures and writes everything.
"""

from benchmarks.peers.front import write_report

__all__ = ["write_report"]
