"""A logger of your own: `python examples/own_logger.py [--steps N]` keeps a run's rows in a SQLite file.

A logger needs `write`; `start` tells it which run this is and from where it goes on, `close` that it is over. Given
as an object it has to be given to `resume` again. Under a name, `--loggers sqlite`, the run remembers it: put the class
into a package of yours and add to its pyproject.toml

    [project.entry-points."offline_marl.loggers"]
    sqlite = "my_package.own_logger:SqliteLogger"
"""

from __future__ import annotations

import argparse
import sqlite3

import offline_marl
from offline_marl.runs.loggers import Logger, Start
from offline_marl.runs.metric_rows import Row


class SqliteLogger(Logger):
    """Rows of a run in `rows.sqlite` of its folder, a line for each number."""

    def start(self, run: Start) -> None:
        self.base = sqlite3.connect(run.folder / "rows.sqlite")
        self.base.execute("CREATE TABLE IF NOT EXISTS rows (kind TEXT, step INT, name TEXT, value REAL)")
        # A process that was killed may have logged more than its last checkpoint knows of; those rows come again.
        self.base.execute("DELETE FROM rows WHERE step > ?", [run.step])
        self.base.commit()

    def write(self, kind: str, row: Row) -> None:
        numbers = [(kind, row["step"], name, value) for name, value in row.items() if name != "step"]
        self.base.executemany("INSERT INTO rows VALUES (?, ?, ?, ?)", numbers)
        self.base.commit()

    def close(self) -> None:
        self.base.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dataset", default="reacher-scripted-clockwise-v0_2x1notip_0")
    parser.add_argument("--steps", type=int, default=2_000)
    parser.add_argument("--out", default="runs/own_logger")
    options = parser.parse_args()
    result = offline_marl.train(
        "bc", options.dataset, out=options.out, steps=options.steps, final_episodes=20, loggers=[SqliteLogger()]
    )
    with sqlite3.connect(result.folder / "rows.sqlite") as base:
        for name, value in base.execute("SELECT name, value FROM rows WHERE kind = 'train' ORDER BY step DESC LIMIT 3"):
            print(f"{name} {value:.3g}")


if __name__ == "__main__":
    main()
