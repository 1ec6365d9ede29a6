from __future__ import annotations

import json
import sys

import pytest
from runs import table

from offline_marl.training import metrics
from offline_marl.training.metrics import FileLogger, MissingLoggerError, TensorBoardLogger, read_rows, refuse_missing


def write(logger, steps, scored=()):
    for step in steps:
        logger.write("train", {"step": step, "loss/actor": step / 3})
        if step in scored:
            logger.write("eval", {"step": step, "return": -1.0, "normalized_return": None})


def test_each_row_stands_in_its_csv_and_in_the_json_lines(tmp_path):
    write(FileLogger(tmp_path, 0, 100), (10, 20), scored=(20,))
    assert (tmp_path / "metrics.csv").read_text().splitlines()[0] == "step,loss/actor"
    assert [float(row["loss/actor"]) for row in table(tmp_path / "metrics.csv")] == [10 / 3, 20 / 3]
    assert table(tmp_path / "eval.csv") == [{"step": "20", "return": "-1.0", "normalized_return": ""}]
    assert [(row["kind"], row["step"]) for row in read_rows(tmp_path / "metrics.jsonl")] == [
        ("train", 10),
        ("train", 20),
        ("eval", 20),
    ]


def test_a_run_taken_up_has_no_row_twice_and_none_is_missing(tmp_path):
    write(FileLogger(tmp_path, 0, 100), (10, 20, 30, 40), scored=(20, 40))
    write(FileLogger(tmp_path, 20, 100), (30, 40, 50), scored=(40,))
    straight = tmp_path / "straight"
    straight.mkdir()
    write(FileLogger(straight, 0, 100), (10, 20, 30, 40, 50), scored=(20, 40))
    for name in ("metrics.csv", "eval.csv", "metrics.jsonl"):
        assert (tmp_path / name).read_bytes() == (straight / name).read_bytes()


def test_the_last_score_is_made_anew(tmp_path):
    write(FileLogger(tmp_path, 0, 40), (20, 40), scored=(20, 40))
    FileLogger(tmp_path, 40, 40)
    assert [row["step"] for row in table(tmp_path / "eval.csv")] == ["20"]
    assert [row["step"] for row in table(tmp_path / "metrics.csv")] == ["20", "40"]


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_row_cut_off_by_a_kill_is_dropped(tmp_path, cut):
    write(FileLogger(tmp_path, 0, 100), (10, 20, 30))
    for name in ("metrics.csv", "metrics.jsonl"):
        text = (tmp_path / name).read_text()
        (tmp_path / name).write_text(text[:-cut])
    write(FileLogger(tmp_path, 20, 100), (30,))
    assert [row["step"] for row in table(tmp_path / "metrics.csv")] == ["10", "20", "30"]
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")] == [10, 20, 30]


def test_csv_and_json_lines_agree_after_a_kill_between_the_two(tmp_path):
    logger = FileLogger(tmp_path, 0, 100)
    write(logger, (10,))
    with (tmp_path / "metrics.csv").open("a") as stream:
        stream.write("20,6.6\n")
    write(FileLogger(tmp_path, 10, 100), (20,))
    assert [row["step"] for row in table(tmp_path / "metrics.csv")] == ["10", "20"]
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")] == [10, 20]


def test_no_rows_yet_is_no_error(tmp_path):
    assert read_rows(tmp_path / "metrics.jsonl") == []
    FileLogger(tmp_path, 0, 10)
    assert (tmp_path / "metrics.csv").read_text() == ""
    assert json.loads("[]") == read_rows(tmp_path / "metrics.jsonl")


def test_tensorboard_events_lie_in_the_run_folder(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for start, steps in ((0, (10, 20, 30)), (20, (30, 40))):
        logger = TensorBoardLogger(tmp_path, start)
        write(logger, steps, scored=(40,))
        logger.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss/actor")] == [10, 20, 30, 40]
    assert [event.value for event in events.Scalars("eval/return")] == [-1.0]
    assert "eval/normalized_return" not in events.Tags()["scalars"]


@pytest.mark.parametrize(
    ("tensorboard", "wandb", "named"), [(True, False, "TensorBoard"), (False, True, "W&B"), (True, True, "TensorBoard")]
)
def test_a_logger_that_is_not_installed_is_refused_with_what_to_install(monkeypatch, tensorboard, wandb, named):
    monkeypatch.setattr(metrics, "find_spec", lambda name: None)
    with pytest.raises(MissingLoggerError, match=rf"^{named} is not installed: pip install 'offline-marl\[log\]'\.$"):
        refuse_missing(tensorboard, wandb)
    refuse_missing(False, False)


class FakeWandb:
    """Stands in for the package: keeps what it was told."""

    def __init__(self):
        self.started, self.logged, self.finished = None, [], False

    def init(self, **kwargs):
        self.started = kwargs
        return self

    def log(self, row):
        self.logged.append(row)

    def finish(self):
        self.finished = True


def test_wandb_gets_the_config_and_every_row_under_its_kind(tmp_path, monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    logger = metrics.WandbLogger(tmp_path, "mine", "offline", {"lr": 1.0}, "id7")
    write(logger, (10,), scored=(10,))
    logger.close()
    assert fake.started["id"] == "id7" and fake.started["mode"] == "offline" and fake.started["config"] == {"lr": 1.0}
    assert fake.started["resume"] == "allow" and fake.started["dir"] == str(tmp_path)
    assert fake.logged == [{"train/loss/actor": 10 / 3, "step": 10}, {"eval/return": -1.0, "step": 10}]
    assert fake.finished
