from __future__ import annotations

import json
import sys
from importlib import metadata

import pytest
from runs import Killed, kill_at, small_fit, small_run, table
from worlds import saved, world

from offline_marl.core.config import ConfigError
from offline_marl.core.registry import RegistryError
from offline_marl.launch.cli import main
from offline_marl.runs import loggers as hook
from offline_marl.runs.config import RunConfig
from offline_marl.runs.log_files import asked_loggers, loggers_of
from offline_marl.runs.loggers import Logger, LoggerError
from offline_marl.training.models import fit as fitting
from offline_marl.training.run import resume


class Kept(Logger):
    """Keeps what it was told."""

    def __init__(self):
        self.told, self.rows, self.closed = None, [], 0

    def start(self, run):
        self.told = run

    def write(self, kind, row):
        self.rows.append((kind, row["step"]))

    def close(self):
        self.closed += 1


class Broken(Kept):
    """Fails in the places that it is told to."""

    def __init__(self, *places):
        super().__init__()
        self.places = places

    def start(self, run):
        if "start" in self.places:
            raise OSError("no route to host")

    def write(self, kind, row):
        super().write(kind, row)
        if "write" in self.places:
            raise RuntimeError("the server\nsaid no")

    def close(self):
        if "close" in self.places:
            raise ValueError


@pytest.fixture
def data(tmp_path):
    return saved(tmp_path, world("continuous"))


@pytest.fixture(autouse=True)
def nobody_registered(monkeypatch):
    monkeypatch.setattr(hook.loggers, "_loaded", {})


def test_a_logger_is_told_of_the_run_and_gets_every_row(tmp_path, data):
    kept = Kept()
    small_run(tmp_path / "run", data, loggers=[kept])
    assert kept.told.folder == tmp_path / "run" and kept.told.step == 0 and list(kept.told.rows) == []
    assert kept.told.config["algorithm"] == "bc" and kept.told.config["settings"]["hidden"] == [16]
    assert kept.rows == [("train", int(row["step"])) for row in table(tmp_path / "run" / "metrics.csv")]
    assert kept.closed == 1


def test_a_run_taken_up_says_which_rows_stand(tmp_path, data):
    first, second = Kept(), Kept()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 30)
        small_run(tmp_path / "run", data, loggers=[first])
    assert first.rows[-1] == ("train", 28) and first.closed == 1
    resume(tmp_path / "run", loggers=[second])
    assert second.told.step == 20 and [row["step"] for row in second.told.rows] == [7, 14, 20]
    stand = [(row["kind"], row["step"]) for row in second.told.rows]
    assert stand + second.rows == [("train", int(row["step"])) for row in table(tmp_path / "run" / "metrics.csv")]


def test_a_failing_logger_is_told_once_and_the_run_goes_on(tmp_path, data, capsys):
    broken, kept = Broken("write", "close"), Kept()
    small_run(tmp_path / "run", data, loggers=[broken, kept])
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: the logger")]
    assert said == [
        "warning: the logger Broken failed at this row and gets no more (RuntimeError: the server said no); "
        "metrics.csv and eval.csv have every row."
    ]
    assert len(broken.rows) == 1 and len(kept.rows) == len(table(tmp_path / "run" / "metrics.csv"))
    assert (tmp_path / "run" / "DONE").exists()


def test_a_logger_that_ends_the_process_ends_its_part_alone(tmp_path, data, capsys):
    class Leaving(Logger):
        def write(self, kind, row):
            sys.exit(3)

    small_run(tmp_path / "run", data, loggers=[Leaving()])
    assert "the logger Leaving failed at this row and gets no more (SystemExit: 3)" in capsys.readouterr().err
    assert (tmp_path / "run" / "DONE").exists()


def test_a_logger_that_spoils_its_row_spoils_nobody_elses(tmp_path, data):
    class Spoiling(Logger):
        def write(self, kind, row):
            row.clear()

    kept = Kept()
    small_run(tmp_path / "run", data, loggers=[Spoiling(), kept])
    assert len(kept.rows) == len(table(tmp_path / "run" / "metrics.csv"))


def test_one_that_cannot_start_ends_a_new_run_and_not_one_that_is_taken_up(tmp_path, data, capsys):
    kept = Kept()
    with pytest.raises(LoggerError, match=r"^The logger Broken could not be started \(OSError: no route to host\)\.$"):
        small_run(tmp_path / "run", data, loggers=[kept, Broken("start")])
    assert kept.told is not None and kept.closed == 1
    resume(tmp_path / "run", loggers=[Broken("start")])
    assert "could not be started (OSError: no route to host): the run goes on without it." in capsys.readouterr().err
    assert (tmp_path / "run" / "DONE").exists()


def test_names_are_remembered_and_taken_up(tmp_path, data):
    made = []

    @hook.loggers.register("kept")
    def make():
        made.append(Kept())
        return made[-1]

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 30)
        small_run(tmp_path / "run", data, loggers=["kept"])
    assert json.loads((tmp_path / "run" / "config.json").read_text())["loggers"] == ["kept"]
    resume(tmp_path / "run")
    assert [each.told.step for each in made] == [0, 20] and made[1].rows
    resume(tmp_path / "run")
    assert len(made) == 2, "a finished run needs no logger"


def test_a_fit_takes_names_too(tmp_path, data, monkeypatch):
    monkeypatch.setattr(fitting, "draw_report", lambda *_: None)
    kept = Kept()
    hook.loggers.register("kept")(lambda: kept)
    small_fit(tmp_path / "model", data, loggers=["kept"])
    assert {kind for kind, _ in kept.rows} == {"train", "eval"} and kept.closed == 1


def test_a_plugins_logger_is_found_by_its_entry_point(tmp_path, monkeypatch):
    about = tmp_path / "marl_paper-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: marl-paper\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[offline_marl.loggers]\npaper = marl_paper:Paper\ngone = marl_paper:Gone\n"
    )
    (tmp_path / "marl_paper.py").write_text(
        "from offline_marl.runs.loggers import Logger\n\n\n"
        "class Paper(Logger):\n    def write(self, kind, row):\n        pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = RunConfig(algorithm="bc", dataset="x", loggers=("paper",))
    assert [name for name, _ in asked_loggers(config)] == ["paper"]
    with pytest.raises(RegistryError, match="The logger 'gone' of the plugin marl-paper does not import"):
        asked_loggers(config.model_copy(update={"loggers": ("gone",)}))
    monkeypatch.delitem(sys.modules, "marl_paper")
    assert metadata.version("marl-paper") == "1.0"


@pytest.mark.parametrize(
    ("asked", "kind", "said"),
    [
        (["nobody"], RegistryError, r"Unknown logger 'nobody'"),
        ([3], ConfigError, r"^int is no logger: it should be a subclass of offline_marl\.runs\.loggers\.Logger"),
        ([Kept], ConfigError, r"^Kept is no logger"),
        (["silly"], ConfigError, r"^silly is no logger"),
        (["poor"], LoggerError, r"^The logger 'poor' cannot be made \(KeyError: 'TOKEN'\)\.$"),
    ],
)
def test_what_is_no_logger_is_refused_before_the_folder_is_taken(tmp_path, data, asked, kind, said):
    hook.loggers.register("silly")(lambda: 3)
    hook.loggers.register("poor")(lambda: {}["TOKEN"])
    with pytest.raises(kind, match=said):
        small_run(tmp_path / "run", data, loggers=asked)
    assert not (tmp_path / "run" / "config.json").exists()


def test_an_unknown_name_is_told_on_the_command_line_and_known_ones_are_listed(tmp_path, data, capsys):
    for words in (["train", "bc", "--dataset", str(data), "--loggers", "nobody,other"], ["list", "loggers"]):
        with pytest.raises(SystemExit) as end:
            main([*words, *(["--out", str(tmp_path / "run")] if words[0] == "train" else [])])
        said = capsys.readouterr()
        assert (end.value.code, words[0]) in {(2, "train"), (0, "list")}
        assert (said.err if words[0] == "train" else said.out).splitlines() == {
            "train": ["error: Unknown logger 'nobody': there are: none."],
            "list": ["loggers", "  none"],
        }[words[0]]


def test_a_single_one_needs_no_list(tmp_path, data):
    kept = Kept()
    small_run(tmp_path / "run", data, loggers=kept)
    assert kept.rows


def test_the_folders_own_files_are_not_guarded(tmp_path, monkeypatch):
    found = loggers_of(RunConfig(algorithm="bc", dataset="x"), tmp_path, 0, 10)
    assert [type(each).__name__ for each in found] == ["FileLogger"]

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("offline_marl.runs.log_files.open_own", full)
    with pytest.raises(OSError, match="No space"):
        found[0].write("train", {"step": 1})
