"""Atomic files and directories, manifests, seals, locks, remote copies. Knows no content."""

from recmind_dist.storage.atomic import (
    atomic_directory,
    follow_umask,
    fsync_directory,
    write_bytes,
    write_json,
)
from recmind_dist.storage.keys import content_key, sha256_file
from recmind_dist.storage.lock import building, directory_lock, empty_directory, moment_lock
from recmind_dist.storage.manifest import read_json, read_manifest, verify_manifest, write_manifest
from recmind_dist.storage.seals import check_seal, write_sealed, write_sealed_json

__all__ = [
    "atomic_directory",
    "building",
    "check_seal",
    "content_key",
    "directory_lock",
    "empty_directory",
    "follow_umask",
    "fsync_directory",
    "moment_lock",
    "read_json",
    "read_manifest",
    "sha256_file",
    "verify_manifest",
    "write_bytes",
    "write_json",
    "write_manifest",
    "write_sealed",
    "write_sealed_json",
]
