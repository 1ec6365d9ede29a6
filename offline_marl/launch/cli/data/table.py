"""Table of the commands of `offline-marl data`; a command's file is imported when it runs."""

from __future__ import annotations

from offline_marl.launch.cli.command import Command, run_lazily

COMMANDS = {
    "list": Command("", "data sets of the catalogue, and how to name tasks on them", run_lazily("data.list")),
    "info": Command("ID [--json]", "what is in a data set or task, and where it came from", run_lazily("data.info")),
    "verify": Command(
        "ID ...", "all that is wrong with data, and whether their checksums hold", run_lazily("data.verify")
    ),
    "convert": Command("IN OUT", "write data in our layout, Minari's or D4RL's", run_lazily("data.convert")),
    "mix": Command("RECIPE OUT", "put episodes of several sets into one, by a recipe", run_lazily("data.mix")),
    "plot": Command("ID --out FILE", "draw returns, lengths, actions and coverage", run_lazily("data.plot")),
    "push": Command("FILE hf://owner/repo", "upload to the Hugging Face hub, with a card", run_lazily("data.push")),
    "pull": Command("PLACE [OUT]", "fetch from the hub or the catalogue, checked", run_lazily("data.pull")),
}
