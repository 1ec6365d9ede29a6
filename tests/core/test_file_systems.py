from __future__ import annotations

from pathlib import Path

import pytest

from offline_marl.core.file_systems import file_system_of

MOUNTS = """\
21 1 254:0 / / rw,relatime - ext4 /dev/vda rw
22 21 0:40 / /home rw,relatime shared:1 - nfs4 server:/home rw
23 22 0:41 / /home/me/fast rw - xfs /dev/sdb rw
24 21 0:42 / /with\\040space rw - fuse.sshfs me@there: rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/data/labels.sqlite", "ext4"),
        ("/home/me/labels.sqlite", "nfs4"),
        ("/home/me/fast/labels.sqlite", "xfs"),
        ("/homes/labels.sqlite", "ext4"),
        ("/with space/labels.sqlite", "fuse.sshfs"),
    ],
)
def test_the_nearest_mount_says_what_a_path_lies_on(tmp_path, path, kind) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    assert file_system_of(Path(path), mounts) == kind
    assert file_system_of(Path(path), tmp_path / "none") is None
