from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from runs import table

from offline_marl.runs import log_files
from offline_marl.runs.config import RunConfig
from offline_marl.runs.log_files import FileLogger, MissingLoggerError, TensorBoardLogger, refuse_missing
from offline_marl.runs.loggers import LoggerError
from offline_marl.runs.metric_rows import read_rows


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


def test_rows_with_other_names_stay_in_their_columns(tmp_path):
    logger = FileLogger(tmp_path, step=0, last=9)
    rows = [{"step": 1, "a": 1.0, "b": 2.0}, {"step": 2, "b": 4.0, "c": 5.0}, {"b": 6.0, "step": 3, "a": 7.0}]
    for row in rows:
        logger.write("train", row)
    text = "step,a,b\n1,1.0,2.0\n2,,4.0\n3,7.0,6.0\n"
    assert (tmp_path / "metrics.csv").read_text() == text
    FileLogger(tmp_path, step=9, last=9)
    assert (tmp_path / "metrics.csv").read_text() == text, "taken up, it is the same"
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"kind": "train", **row} for row in rows]


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
    monkeypatch.setattr(log_files, "find_spec", lambda name: None)
    with pytest.raises(MissingLoggerError, match=rf"^{named} is not installed: pip install 'offline-marl\[log\]'\.$"):
        refuse_missing(tensorboard, wandb)
    refuse_missing(False, False)


class FakeWandb:
    """Stands in for the package: keeps what it was told."""

    def __init__(self, step=0):
        self.started, self.logged, self.finished, self.axes = None, [], False, {}
        self.step = step

    def init(self, **kwargs):
        self.started = kwargs
        return self

    def define_metric(self, name, step_metric):
        self.axes[name] = step_metric

    def log(self, row, step, commit):
        assert commit
        self.logged.append(row)
        self.step = step + 1

    def finish(self):
        self.finished = True


def test_wandb_gets_the_config_and_every_row_under_its_kind(tmp_path, monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    logger = log_files.WandbLogger(tmp_path, "mine", "offline", {"lr": 1.0}, "id7")
    write(logger, (10,), scored=(10,))
    logger.close()
    assert fake.started["id"] == "id7" and fake.started["mode"] == "offline" and fake.started["config"] == {"lr": 1.0}
    assert fake.started["resume"] == "allow" and fake.started["dir"] == str(tmp_path)
    assert fake.logged == [{"train/loss/actor": 10 / 3, "step": 10}, {"eval/return": -1.0, "step": 10}]
    assert fake.finished
    assert fake.axes == {"*": "step"} and fake.step == 2


def started(tmp_path, monkeypatch, step=0, **fields):
    """What W&B is started with, and gets, by a run that stands at update 20."""
    write(FileLogger(tmp_path, 0, 100), (10, 20, 30), scored=(20,))
    fake = FakeWandb(step)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    config = RunConfig(algorithm="bc", dataset="x", **fields)
    loggers = log_files.loggers_of(config, tmp_path, 20, 100)
    for logger in loggers:
        write(logger, (30,))
        logger.close()
    return fake


def test_wandb_online_gets_only_what_it_has_not(tmp_path, monkeypatch):
    # A process that was killed had sent four rows; one after the checkpoint is made again, and is there already.
    fake = started(tmp_path, monkeypatch, step=4, wandb="online", wandb_project="mine")
    assert fake.started["mode"] == "online" and fake.started["project"] == "mine" and fake.logged == []
    lost = started(tmp_path, monkeypatch, step=1, wandb="online")
    assert [(row["step"], "eval/return" in row) for row in lost.logged] == [(20, False), (20, True), (30, False)]


def test_wandb_offline_begins_with_the_rows_that_stand(tmp_path, monkeypatch):
    fake = started(tmp_path, monkeypatch, wandb="offline")
    assert [row["step"] for row in fake.logged] == [10, 20, 20, 30]


def test_the_id_at_wandb_goes_with_the_folder(tmp_path, monkeypatch):
    first = started(tmp_path / "here", monkeypatch, wandb="online").started["id"]
    (tmp_path / "here").rename(tmp_path / "elsewhere")
    assert started(tmp_path / "elsewhere", monkeypatch, wandb="online").started["id"] == first
    assert started(tmp_path / "other", monkeypatch, wandb="online").started["id"] != first
    (tmp_path / "other" / "wandb-id").write_text("cut/off")
    assert len(log_files.wandb_id(tmp_path / "other")) == 16


def test_wandb_that_cannot_start_ends_only_a_new_run(tmp_path, monkeypatch, capsys):
    fake = FakeWandb()
    fake.init = lambda **_: (_ for _ in ()).throw(ConnectionError("api key not configured"))
    monkeypatch.setitem(sys.modules, "wandb", fake)
    config = RunConfig(algorithm="bc", dataset="x", wandb="online")
    with pytest.raises(
        LoggerError, match=r"^The logger W&B could not be started .*: see `wandb login`, or use --wandb"
    ):
        log_files.loggers_of(config, tmp_path, 0, 100)
    assert len(log_files.loggers_of(config, tmp_path, 0, 100)) == 1
    assert "the run goes on without it" in capsys.readouterr().err


def test_the_rate_is_logged_where_it_can_be_told(tmp_path, monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    logger = log_files.WandbLogger(tmp_path, "mine", "offline", {}, "id7")
    for kind, step, wall_s in (("train", 100, 1.0), ("eval", 100, None), ("train", 200, 3.0), ("train", 300, 3.0)):
        logger.write(kind, {"step": step, "wall_s": wall_s})
    assert [row.get("train/updates_per_s") for row in fake.logged] == [None, None, 50.0, None]


@pytest.mark.slow
def test_a_real_offline_wandb_goes_on_under_the_same_id_and_its_last_folder_is_whole(tmp_path):
    pytest.importorskip("wandb")
    script = """
import os, sys
from pathlib import Path
from offline_marl.training.config import RunConfig
from offline_marl.training.metrics import loggers_of
folder, start, steps, end = Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3]), sys.argv[4]
loggers = loggers_of(RunConfig(algorithm="bc", dataset="x", wandb="offline"), folder, start, 100)
for step in steps:
    for logger in loggers:
        logger.write("train", {"step": step, "wall_s": step / 10, "loss/actor": step / 3})
if end == "kill":
    os._exit(9)
for logger in loggers:
    logger.close()
"""
    for start, steps, end in (("0", "[10, 20, 30]", "kill"), ("20", "[30, 40]", "close")):
        command = [sys.executable, "-c", f"import json{script}", str(tmp_path), start, steps, end]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == (9 if end == "kill" else 0), done.stderr
        folder = sorted(tmp_path.glob("wandb/offline-run-*"))[-1]
        assert folder.name.endswith(log_files.wandb_id(tmp_path))
    program = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json", str(folder)]
    lines = subprocess.run(program, capture_output=True, text=True, check=True).stdout.splitlines()
    rows = [record["history"] for record in map(json.loads, lines) if "history" in record]
    assert [row["item"]["step"] for row in rows] == [10, 20, 30, 40]
    assert [row["item"]["_step"] for row in rows] == [0, 1, 2, 3]
