"""`offline-marl report`: what it prints, what it refuses."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from finished import folder

from offline_marl.films.captions import MissingEncoderError
from offline_marl.films.videos import Film
from offline_marl.launch.cli import main
from offline_marl.report import films

ROOT = Path(__file__).parents[3]


def report(capsys: pytest.CaptureFixture[str], *args: str | Path) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(["report", *map(str, args)])
    out, err = capsys.readouterr()
    return int(str(end.value.code)), out, err


def runs(place: Path, algorithms: Sequence[str] = ("bc", "iql"), seeds: int = 5) -> Path:
    for step, algorithm in enumerate(algorithms):
        for seed in range(seeds):
            told = {"return": -3.0, "normalized_return": None}
            path = place / "runs" / f"{algorithm}_{seed}"
            folder(path, 10 * step + seed / 10, algorithm=algorithm, seed=seed, data=told)
    return place / "runs"


def test_report_prints_a_table_what_it_claims_and_where_files_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rliable")
    folder(runs(tmp_path) / "going", done=False)
    code, out, err = report(capsys, tmp_path / "runs", "--out", tmp_path / "out", "--reps", "200")
    assert code == 0 and err == ""
    assert out.startswith("10 runs, last checkpoint at the declared budget")
    assert "0.200 [" in out and "(the data itself)" in out and "-3.000" in out
    assert "iql returns more than bc with probability 1.00 [1.00, 1.00] on toy" in out
    assert "left out: 1" in out and "going: unfinished" in out
    for name in ("scores.csv", "summary.csv", "evidence.json", "marl_eval.json"):
        assert (tmp_path / "out" / name).is_file() and name in out


def test_videos_are_of_one_run_of_each_label_and_what_stops_them_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("rliable")
    seen = []

    def filmed(run: Path, path: Path) -> Film:
        seen.append(run.name)
        if run.name.startswith("iql"):
            raise MissingEncoderError("Videos need imageio: pip install it.")
        for file in (path, path.with_suffix(".png")):
            file.write_bytes(b"seen")
        return Film(path, path.with_suffix(".png"), 1, 25.0, (0.0,))

    monkeypatch.setattr(films, "film", filmed)
    args = (runs(tmp_path, seeds=2), "--out", tmp_path / "out", "--reps", "100")
    code, out, _ = report(capsys, *args, "--videos")
    assert code == 0 and seen == ["bc_0", "iql_0"]
    assert "note: No video of iql on toy: Videos need imageio: pip install it." in out
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("data:video/mp4;base64,c2Vlbg==") == page.count("data:image/png;base64,c2Vlbg==") == 1
    assert "Videos need imageio" in page
    report(capsys, *args)
    assert "data:video" not in (tmp_path / "out" / "report.html").read_text() and len(seen) == 2


def test_best_is_labelled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rliable")
    code, out, _ = report(capsys, runs(tmp_path, ["bc"], 2), "--best", "--out", tmp_path / "out", "--reps", "100")
    assert code == 0 and "best of 2 evaluations (chosen on the test environment)" in out


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "report needs PATHS"),
        (["runs"], "report needs --out DIR"),
        (["runs", "--out", "file"], "--out file is a file: name a folder."),
        (["gone", "--out", "x"], "There is no gone: name run folders"),
        (["runs", "--out", "x", "--reps", "3"], "Field 'reps' cannot be '3'"),
        (["runs", "--out", "x", "--top", "3"], "Unknown flag '--top' of report"),
    ],
)
def test_bad_input_is_one_sentence(
    args: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    os.mkdir("runs")
    code, out, err = report(capsys, *args)
    assert code == 2 and out == "" and len(err.splitlines()) == 1
    assert err.startswith("error: ") and said in err


def test_without_rliable_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "rliable", None)
    code, _, err = report(capsys, runs(tmp_path, ["bc"], 1), "--out", tmp_path / "out")
    assert code == 2 and "pip install 'offline-marl[report]'" in err and len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_paths_may_hold_commas_brackets_quotes_and_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rliable")
    monkeypatch.chdir(tmp_path)
    names = ["a,b", "5", "[x]", 'q"u<b>', "c d"]
    for seed, name in enumerate(names):
        folder(tmp_path / name, seed=seed)
    code, out, _ = report(capsys, *names, "--out", "out,1", "--reps", "100")
    assert code == 0 and out.startswith("5 runs") and (tmp_path / "out,1" / "scores.csv").is_file()


def test_the_committed_page_is_what_the_command_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rliable")
    recipe = next(line for line in (ROOT / "Makefile").read_text().splitlines() if "offline_marl report" in line)
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.chdir(tmp_path)
    rows = Path("build") / "headline.csv"
    importlib.import_module("headline_tables").write_for_report(rows)
    code, _, _ = report(capsys, str(rows), "--title", recipe.split("'")[1], "--out", tmp_path)
    committed = ROOT / "docs" / "report.html"
    assert code == 0
    assert (tmp_path / "report.html").read_bytes() == committed.read_bytes(), "run `make page`"
    assert committed.stat().st_size < 500_000
