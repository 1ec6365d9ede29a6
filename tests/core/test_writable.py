"""A place for results that does not exist yet, is a file, or is closed."""

from __future__ import annotations

import tempfile

import pytest

from offline_marl.core.config import ConfigError
from offline_marl.core.files import refuse_unwritable


def test_a_folder_that_can_be_made_is_not_made(tmp_path):
    refuse_unwritable(tmp_path / "a" / "b", "--out")
    assert not list(tmp_path.iterdir())


def test_a_file_on_the_way_and_a_closed_folder_are_refused(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="--out .*deep cannot be written to: .*file is a file"):
        refuse_unwritable(tmp_path / "file" / "deep", "--out")

    def closed(dir):
        raise PermissionError(13, "Permission denied", str(dir))

    monkeypatch.setattr(tempfile, "TemporaryFile", closed)  # root may write anywhere
    with pytest.raises(ConfigError, match="--out .* cannot be written to: Permission denied"):
        refuse_unwritable(tmp_path, "--out")
