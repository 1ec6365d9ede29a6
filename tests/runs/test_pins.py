from __future__ import annotations

import pytest
import torch

from offline_marl.runs import checkpoint
from offline_marl.runs.folder import PINNED, RunFolder, RunFolderError
from offline_marl.runs.pins import pin, version_of


def test_a_version_is_of_all_that_the_outputs_depend_on():
    network = torch.nn.BatchNorm1d(2)
    first = version_of(network)
    network.running_mean += 1
    assert version_of(network) != first
    network.running_mean -= 1
    network.best_weight = torch.nn.Parameter(torch.ones(2))  # what a fit remembers beside
    assert version_of(network) == first


def test_another_network_is_refused_once_the_run_has_learnt(tmp_path):
    folder = RunFolder(tmp_path)
    pin(folder, "world model in models/mine", "first")
    pin(folder, "prey of the run tag", "one")
    pin(folder, "world model in models/mine", "second")  # begun anew
    checkpoint.save(folder.checkpoints, 1, {}, 1)
    pin(folder, "world model in models/mine", "second")
    pin(folder, "frozen policy of the run team", "unknown to an earlier version")
    with pytest.raises(RunFolderError, match="The prey of the run tag is not the one that the run in .* began with"):
        pin(folder, "prey of the run tag", "other")
    (tmp_path / PINNED).write_text("[")
    with pytest.raises(RunFolderError, match="pinned.json was damaged or edited"):
        pin(folder, "prey of the run tag", "one")
