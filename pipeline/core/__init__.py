"""The ground floor: architectures, errors, processes, progress, namespaces, cache and downloads.

Modules here are imported by name (``from pipeline.core import process``); no room above is known here.
"""
