"""Stands in for certifi in ``bundle.pyz``: the authorities are the system's, or those that the user names.

The real one cannot read its file out of a folder of a zip file with Python 3.7 to 3.9, and writes a temporary file each
time it is imported with others; a site's registry is signed by none of the web's authorities anyhow. requests asks for
this path when it is imported, and uses it only where nobody told it what to believe: :mod:`pipeline.oci` always does.
"""

from __future__ import annotations

import os
import ssl


def where() -> str:
    """Return the file of the system's authorities; there may be none."""
    paths = ssl.get_default_verify_paths()
    return os.environ.get(paths.openssl_cafile_env, paths.openssl_cafile)
