"""Types of file systems, and which of them several hosts may write to. Imports no torch."""

from __future__ import annotations

from pathlib import Path

NETWORK_TYPES = """
nfs nfs3 nfs4 cifs smb smb2 smb3 smbfs ncpfs afs coda ceph lustre gpfs beegfs panfs pvfs2 orangefs ocfs2 gfs gfs2
glusterfs fuse.sshfs fuse.glusterfs fuse.ceph fuse.s3fs fuse.rclone fuse.gcsfuse
"""
NETWORK = frozenset(NETWORK_TYPES.split())
"""Types of file systems that several hosts may write to, as Linux calls them."""


def file_system_of(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str | None:
    """Type of the file system that a path lies on, or will lie on; None where the system does not say."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    real = path.absolute().resolve()
    kind, longest = None, -1
    for line in lines:
        before, _, after = line.partition(" - ")
        words = before.split()
        if len(words) < 5 or not after:
            continue
        point = Path(words[4].encode().decode("unicode_escape"))
        if (real == point or point in real.parents) and len(point.parts) >= longest:
            kind, longest = after.split()[0], len(point.parts)
    return kind
