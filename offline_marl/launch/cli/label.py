"""Command `offline-marl label`: a page on which people compare segments of play."""

from __future__ import annotations

import contextlib
import shlex
import webbrowser
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg

from offline_marl.core.config import ConfigError, build
from offline_marl.core.fields import Count, CountOrZero, Positive, Seed, Share
from offline_marl.launch.cli.command import PROGRAM
from offline_marl.launch.cli.flags import ShareFlags, read

if TYPE_CHECKING:
    from offline_marl.labelling.questions import Asking

ABOUT = (
    "Serves a page on which people say which of two segments of play they like better, rate segments, or say which "
    "agent did well. PLACE is a data set, of which pairs are drawn into a folder first, a folder of comparisons, or a "
    "run that asks. Answers are on the disk before the page goes on, and fit-reward learns from them. The page is "
    "served on this machine alone, to who has the address with its token, until Ctrl-C."
)
USAGE = "DATA|FOLDER|RUN [--out FOLDER] [--budget N] [--ask pairs,ratings,credit] [--port N] ..."
LEAST_LEASE = 120.0
"""Seconds; the page renews what it shows every 60."""
DRAWING = ("out", "budget", "length", "seed", "conf", "view")
"""Flags that say which pairs of a data set are drawn, and whereto."""
HEADING_PAIRS, HEADING_PAGE, HEADING_FILES = "new pairs of a data set", "the server", "instead of serving"
KINDS = {"pairs": "pair", "ratings": "rating", "credit": "credit"}


class LabelFlags(ShareFlags):
    """Command-line flags of `label`: what is asked about, of whom, and where it is served."""

    place: CliPositionalArg[str]
    """Data set (as for --dataset elsewhere), folder of comparisons, or run."""
    ask: tuple[Literal["pairs", "ratings", "credit"], ...] = ("pairs",)
    """pairs: which of two is better; ratings: 1 to 5 for one segment; credit: which agent did best in one."""
    target: str = "team"
    """Whose doings pairs and ratings are about, also in files to fill in: team, agent_0 ..., or agents for each."""
    answers: Count = 1
    """People that each question is put to; nobody gets one twice but for repeats."""
    repeats: Share = 0.05
    """Share of the answered pairs that the same person is asked about again, swapped, to see whether they agree."""
    lease: Positive = 600.0
    """Seconds for which a question is kept for who has it open, 120 at least: their page renews it every minute."""
    out: Path | None = None
    """Folder for pairs of a data set; without it pairs/<name>. One that is there is gone on with."""
    budget: Count = 200
    """Pairs to draw."""
    length: CountOrZero | None = None
    """Steps of a segment, 0 for whole episodes; without it whole ones up to 60 steps, else 60."""
    seed: Seed = 0
    """Decides which pairs are drawn."""
    receive: bool = False
    """Make FOLDER, empty, for pairs that `prefs exchange` sends from another machine."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 lets other machines in, who can read along unless a tunnel or proxy encrypts."""
    port: Annotated[int, Field(ge=0, le=65_535)] = 8765
    """Port to listen on; 0 takes a free one."""
    allow_host: tuple[str, ...] = ()
    """Further names by which the page is called, such as this machine's in its network."""
    token: bool = True
    """Ask for the token in the printed address; without, only --host 127.0.0.1 is served."""
    new_token: bool = False
    """Make another token: addresses that were given away end."""
    ahead: CountOrZero = 20
    """Questions whose clips are rendered before somebody asks for them."""
    clip_room: Positive = 512.0
    """Megabytes that clips may take on the disk; those that were longest not asked for are deleted."""
    open: bool = False
    """Open the page in a browser on this machine."""
    export_file: Annotated[Path | None, Field(validation_alias="export")] = None
    """Write answers and open questions into this file (.csv: pairs alone, for a spreadsheet; .json: all) and end."""
    import_file: Annotated[Path | None, Field(validation_alias="import")] = None
    """Take in the answers of such a file, all or none, and end; the same one twice adds nothing."""
    annotator: str | None = None
    """Who answered, where the file to take in does not say."""
    overwrite: bool = False
    """Let --export replace its file."""


GROUPS = {
    **dict.fromkeys(DRAWING, HEADING_PAIRS),
    **dict.fromkeys(("host", "port", "allow_host", "token", "new_token", "ahead", "clip_room", "open"), HEADING_PAGE),
    **dict.fromkeys(("export", "import", "annotator", "overwrite"), HEADING_FILES),
}


def run(args: Sequence[str]) -> None:
    """Serve the page, or write or read its files.

    Raises:
        BadInputError: There is nothing to ask about, or the server cannot be had.
    """
    given = read(LabelFlags, "label", USAGE, ABOUT, args, GROUPS)
    flags: LabelFlags = build(LabelFlags, given)
    _refuse(flags)
    folder = _folder(flags, given)
    if flags.import_file is not None:
        _take_in(folder, flags)
    elif flags.export_file is not None:
        _export(folder, flags, "target" in given)
    else:
        _serve(folder, flags)


def _refuse(flags: LabelFlags) -> None:
    if not flags.token and flags.host not in {"127.0.0.1", "localhost", "::1"}:
        raise ConfigError(f"--no-token would let everybody in who reaches {flags.host}: serve 127.0.0.1 alone, or ask.")
    if flags.export_file is not None and flags.import_file is not None:
        raise ConfigError("--export and --import exclude each other.")
    if flags.import_file is not None and flags.target == "agents":
        raise ConfigError("Answers of a file that do not say their target need one: --target team, or agent_0 ....")
    for file in (flags.export_file, flags.import_file):
        if file is not None and file.suffix not in {".csv", ".json"}:
            raise ConfigError(f"{file} should end in .csv or .json.")
    if flags.lease < LEAST_LEASE:
        raise ConfigError(
            f"--lease {flags.lease:g} could not be kept: the page renews what it shows every minute, so say "
            f"{LEAST_LEASE:g} seconds or more."
        )
    if len(set(flags.ask)) < len(flags.ask) or not flags.ask:
        raise ConfigError("--ask names what to ask, each once: pairs, ratings, credit.")
    if flags.export_file is None and flags.import_file is None:
        from offline_marl.labelling.serve import refuse_missing

        refuse_missing()


def _folder(flags: LabelFlags, given: Mapping[str, Any]) -> Path:
    """The folder of comparisons; made of a data set, or for pairs from elsewhere, where there is none."""
    from offline_marl.labelling.places import begin_folder, find_folder, receiving_folder
    from offline_marl.runs.places import whole, with_share

    place = Path(flags.place)
    found = receiving_folder(place) if flags.receive else find_folder(place)
    if found is not None:
        for name in DRAWING:
            if name in given:
                raise ConfigError(
                    f"--{name} is about pairs to draw of a data set, and {place} names none: leave it away."
                )
        return found
    shared = {name: value for name in ("conf", "view") if (value := getattr(flags, name)) is not None}
    data = str(with_share({"dataset": whole("dataset", flags.place), **shared})["dataset"])
    folder = flags.out or Path("pairs") / Path(data).name.removesuffix(".safetensors")
    made = begin_folder(folder, data, flags.budget, flags.length, flags.seed, given.keys())
    if made is not None:
        print(f"{'pairs':<12}{made.pairs:,} drawn from {data}, {made.held_out:,} of them held out")
    return folder


def _asking(flags: LabelFlags, n_agents: int) -> Asking:
    from offline_marl.labelling.questions import Asking

    kinds = tuple(KINDS[name] for name in flags.ask)
    return Asking(kinds, _targets(flags, n_agents), flags.answers, flags.repeats, flags.lease)  # type: ignore[arg-type]


def _targets(flags: LabelFlags, n_agents: int) -> tuple[str, ...]:
    from offline_marl.preferences.labels import TEAM, index_of

    if not n_agents and flags.target == "agents":
        raise ConfigError("How many agents there are is not known before pairs are there: name one, --target agent_0.")
    targets = tuple(f"agent_{index}" for index in range(n_agents)) if flags.target == "agents" else (flags.target,)
    if n_agents and flags.target != TEAM:
        for target in targets:
            index_of(target, n_agents)
    return targets


def _serve(folder: Path, flags: LabelFlags) -> None:
    from offline_marl.labelling.serve import Address, alone, bind, make_server, token_of
    from offline_marl.training.preferences.folders import ComparisonFolder

    address = Address(flags.host, flags.port, tuple(flags.allow_host), flags.token)
    with alone(folder):
        with ComparisonFolder(folder) as opened:
            data = opened.store.facts().get("data") or {"key": "", "spec": {"obs_dims": []}}
            before = opened.store.cursor(), opened.store.judgement_cursor()
        of_run, spec = str(data["key"]).startswith("run:"), data["spec"]
        if of_run and "pairs" not in flags.ask:
            raise ConfigError("A run waits for answers to its pairs: --ask names pairs too, beside ratings or credit.")
        asking = _asking(flags, len(spec["obs_dims"]))
        if "pairs" not in flags.ask and not before[0]:
            print(f"{'note':<12}fit-reward needs labels of pairs beside these: --ask pairs,{','.join(flags.ask)}")
        token = token_of(folder, flags.new_token) if flags.token else None
        listening = bind(address)
        port = listening.getsockname()[1]
        shown = "127.0.0.1" if flags.host in {"0.0.0.0", "::"} else flags.host
        url = f"http://{f'[{shown}]' if ':' in shown else shown}:{port}/" + (f"#token={token}" if token else "")
        print(f"{'page':<12}{url}")
        if flags.host not in {"127.0.0.1", "localhost", "::1"}:
            print(f"{'note':<12}what passes the network is not encrypted: see docs/labelling.md")
        if flags.receive:
            print(f"{'pairs':<12}by `{PROGRAM} prefs exchange FOLDER --label-server URL` where they were drawn")
        print(f"{'answers':<12}in {folder}; Ctrl-C ends", flush=True)
        if flags.open:
            webbrowser.open(url)
        with contextlib.suppress(KeyboardInterrupt):
            room = int(flags.clip_room * 1e6)
            make_server(folder, asking, token, address.hosts, room, flags.ahead).run(sockets=[listening])
        _conclude(folder, before, of_run, flags.receive)


def _conclude(folder: Path, before: tuple[int, int], of_run: bool, received: bool = False) -> None:
    """Tell what was answered since the rows of these numbers."""
    from offline_marl.training.preferences.folders import ComparisonFolder

    with ComparisonFolder(folder) as opened:
        held, new = opened.store.standing(), opened.store.standing(*before)
        about = opened.store.facts().get("task", "ID")
    name = shlex.quote(str(folder))
    print(f"{'answers':<12}{held:,} in {folder}, {new:,} of them new")
    if received:
        print(f"{'learn':<12}where the pairs were drawn: prefs exchange fetches the answers while this is served")
        return
    if of_run:
        print(f"{'learn':<12}the run does, whenever it fits its reward model")
        return
    print(f"{'learn':<12}{PROGRAM} fit-reward bradley-terry --dataset {about} --preferences {name}")


def _export(folder: Path, flags: LabelFlags, targeted: bool) -> None:
    from offline_marl.training.preferences.everything import export_everything
    from offline_marl.training.preferences.folders import ComparisonFolder
    from offline_marl.training.preferences.label_tables import export

    file = flags.export_file
    assert file is not None
    if file.exists() and not flags.overwrite:
        raise ConfigError(f"{file} exists already: choose another name, or say --overwrite.")
    with ComparisonFolder(folder) as opened:
        data = opened.store.facts().get("data") or {"spec": {"obs_dims": []}}
        targets = _targets(flags, len(data["spec"]["obs_dims"])) if targeted else None
        labels, still_open = (export if file.suffix == ".csv" else export_everything)(opened, file, targets)
    print(f"{'file':<12}{file}: {labels:,} answers, {still_open:,} {'questions' if targeted else 'pairs'} without")
    print(f"{'take in':<12}{PROGRAM} label {shlex.quote(str(folder))} --import {shlex.quote(str(file))}")


def _take_in(folder: Path, flags: LabelFlags) -> None:
    from offline_marl.training.preferences.everything import take_in_everything
    from offline_marl.training.preferences.folders import ComparisonFolder
    from offline_marl.training.preferences.label_tables import take_in

    file = flags.import_file
    assert file is not None
    with ComparisonFolder(folder) as opened:
        if file.suffix == ".csv":
            new, known = take_in(opened, file, flags.annotator, flags.target)
        else:
            new, known = take_in_everything(opened, file, flags.annotator, flags.target)
    print(f"{'answers':<12}{new:,} new, {known:,} were there already")
