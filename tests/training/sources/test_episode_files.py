"""Files of a replay: what is written is read, what a killed run left gives way, old ones go when nobody needs them."""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import chain
from pathlib import Path

import pytest
import torch
from worlds import SPECS, world

from offline_marl.core.files import DamagedFileError
from offline_marl.core.types import Episode
from offline_marl.runs.folder import RunFolderError
from offline_marl.training.sources.episode_files import EpisodeFiles


def episodes_of(kind: str, count: int) -> list[Episode]:
    data = world(kind, count)
    return [data.episode(number) for number in range(count)]


def assert_same(one: Episode, other: Episode) -> None:
    for item in fields(Episode):
        ours, theirs = getattr(one, item.name), getattr(other, item.name)
        assert (ours is None) == (theirs is None) and (ours is None or torch.equal(ours, theirs)), item.name


def names(files: EpisodeFiles) -> list[str]:
    return sorted(path.name for path in files.folder.glob("episodes_*"))


@pytest.mark.parametrize("kind", SPECS)
def test_episodes_come_back_as_they_were_from_any_place_to_any_other(kind: str, tmp_path: Path) -> None:
    files, episodes = EpisodeFiles(tmp_path, SPECS[kind]), episodes_of(kind, 10)
    for first, stop in ((0, 4), (4, 5), (5, 10)):
        files.write(first, episodes[first:stop])
    for first, stop in ((0, 10), (2, 7), (4, 5), (9, 10), (3, 3)):
        found = list(chain(*files.read(first, stop)))
        assert len(found) == stop - first
        for one, other in zip(found, episodes[first:stop], strict=True):
            assert_same(one, other)


def test_what_only_some_episodes_say_holds_for_all_in_the_others(tmp_path: Path) -> None:
    files, (first, second) = EpisodeFiles(tmp_path, SPECS["discrete"]), episodes_of("discrete", 2)
    mask = torch.ones_like(second.terminations)
    mask[2:, 1] = False
    cut = replace(second, mask=mask, end_seen=torch.tensor(False))
    files.write(0, [replace(first, avail_actions=None), cut])
    one, other = chain(*files.read(0, 2))
    assert one.mask is not None and bool(one.mask.all()) and one.end_seen is None
    assert one.avail_actions is not None and torch.equal(one.avail_actions[0], SPECS["discrete"].present("act"))
    assert_same(other, cut)


def test_files_that_a_killed_run_left_behind_its_checkpoint_give_way(tmp_path: Path) -> None:
    files, episodes = EpisodeFiles(tmp_path, SPECS["continuous"]), episodes_of("continuous", 10)
    files.write(0, episodes[:3])
    files.write(3, episodes[3:6])  # of no checkpoint: the run goes on from number 3
    assert [len(part) for part in files.read(0, 3)] == [3]
    files.write(3, episodes[6:10])
    assert names(files) == ["episodes_000000000-000000003.safetensors", "episodes_000000003-000000007.safetensors"]
    assert_same(next(iter(chain(*files.read(3, 4)))), episodes[6])
    files.write(7, [])
    assert len(names(files)) == 2


def test_files_go_once_all_their_episodes_are_older_than_what_is_needed(tmp_path: Path) -> None:
    files, episodes = EpisodeFiles(tmp_path, SPECS["continuous"]), episodes_of("continuous", 6)
    files.write(0, episodes[:3])
    files.write(3, episodes[3:])
    files.drop_before(2)
    assert len(names(files)) == 2
    files.drop_before(3)
    assert len(names(files)) == 1
    with pytest.raises(RunFolderError, match="lacks episodes 2 to 3 of the replay"):
        list(files.read(2, 4))


def test_a_damaged_file_is_noticed(tmp_path: Path) -> None:
    files = EpisodeFiles(tmp_path, SPECS["continuous"])
    files.write(0, episodes_of("continuous", 2))
    (path,) = tmp_path.glob("episodes_*")
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(DamagedFileError, match="damaged"):
        list(files.read(0, 2))


def test_marks_of_checkpoints_come_back_and_lost_ones_are_none(tmp_path: Path) -> None:
    files = EpisodeFiles(tmp_path, SPECS["continuous"])
    assert files.read_needed() == []
    files.write_needed([(3, 0), (9, 4)])
    assert files.read_needed() == [(3, 0), (9, 4)]
    (tmp_path / "needed.json").write_text('{"checkpoints": [[1]]}')
    assert files.read_needed() == []
