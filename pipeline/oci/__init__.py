"""The room of OCI images: layouts on disk, layers, and a client for registries (decisions D9 and D14)."""

from pipeline.oci.auth import DOCKER_HUB, find_auth_file
from pipeline.oci.faults import NotThereError
from pipeline.oci.layer import LayerEntry, LayerInfo, write_layer
from pipeline.oci.layout import Layout
from pipeline.oci.model import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_LAYER_TAR,
    OCI_MANIFEST,
    REF_NAME,
    Descriptor,
    Links,
    Platform,
    canonical,
    digest_of,
    digest_of_file,
    is_digest,
    links,
    matches,
    parse_manifest,
)
from pipeline.oci.options import RegistryOptions
from pipeline.oci.reference import Reference, is_host, is_repository, is_tag
from pipeline.oci.referrers import attach, fallback_entries, fallback_entry, fallback_index
from pipeline.oci.registry import Referrers, Registry, fallback_tag
from pipeline.oci.sync import PullSummary, PushSummary, pull, push

__all__ = [
    "DOCKER_HUB",
    "DOCKER_LIST",
    "DOCKER_MANIFEST",
    "OCI_CONFIG",
    "OCI_INDEX",
    "OCI_LAYER",
    "OCI_LAYER_TAR",
    "OCI_MANIFEST",
    "REF_NAME",
    "Descriptor",
    "LayerEntry",
    "LayerInfo",
    "Layout",
    "Links",
    "NotThereError",
    "Platform",
    "PullSummary",
    "PushSummary",
    "Reference",
    "Referrers",
    "Registry",
    "RegistryOptions",
    "attach",
    "canonical",
    "digest_of",
    "digest_of_file",
    "fallback_entries",
    "fallback_entry",
    "fallback_index",
    "fallback_tag",
    "find_auth_file",
    "is_digest",
    "is_host",
    "is_repository",
    "is_tag",
    "links",
    "matches",
    "parse_manifest",
    "pull",
    "push",
    "write_layer",
]
