"""The commands of `offline-marl data`; a command's file is imported when it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module

from offline_marl.launch.commands import Command


def _of(module: str) -> Callable[[Sequence[str]], None]:
    def run(args: Sequence[str]) -> None:
        import_module(f"offline_marl.launch.data.{module}").run(args)

    return run


COMMANDS = {
    "list": Command("", "data sets of the catalogue, and how to name tasks on them", _of("shelf")),
    "info": Command("ID [--json]", "what is in a data set or task, and where it came from", _of("info")),
    "verify": Command("ID ...", "all that is wrong with data, and whether their checksums hold", _of("verify")),
    "convert": Command("IN OUT", "write data in our layout, Minari's or D4RL's", _of("convert")),
    "mix": Command("RECIPE OUT", "put episodes of several sets into one, by a recipe", _of("mix")),
    "plot": Command("ID --out FILE", "draw returns, lengths, actions and coverage", _of("plot")),
    "push": Command("FILE hf://owner/repo", "upload to the Hugging Face hub, with a card", _of("push")),
    "pull": Command("PLACE [OUT]", "fetch from the hub or the catalogue, checked", _of("pull")),
}
