"""Command `offline-marl evaluate`: score of a run, and a film of it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from offline_marl.core.attempts import said
from offline_marl.core.config import build
from offline_marl.core.errors import BadInputError
from offline_marl.launch.cli.flags import EvaluateFlags, read


def run(args: Sequence[str]) -> None:
    """Score, and film, the newest checkpoint of a run."""
    summary = "Scores a run's newest checkpoint in the environment that its data came from, or in another."
    usage = (
        "RUN [--episodes N] [--seed N] [--environment NAME] [--video FILE.mp4 [--video-episodes N]] [--show] "
        "[--infos FILE.csv]"
    )
    flags: EvaluateFlags = build(EvaluateFlags, read(EvaluateFlags, "evaluate", usage, summary, args))

    from offline_marl.training.run import evaluate

    shown: list[tuple[str, object]] = []
    if flags.show:
        from offline_marl.films.window import show

        show(flags.run, flags.episodes, flags.seed, flags)
    if flags.video is not None:  # first: what it lacks is said before a long evaluation
        shown = _film(flags)
    place = (flags.environment, flags.env_settings, flags.max_steps)
    print(evaluate(flags.run, flags.episodes, flags.seed, *place, infos=flags.infos))
    if flags.infos is not None:
        shown.append(("infos", flags.infos))
    for name, value in shown:
        print(f"{name:<12}{value}")


def _film(flags: EvaluateFlags) -> list[tuple[str, object]]:
    """Film the run; what fails on the way costs the film, not the score.

    Raises:
        BadInputError: It cannot be filmed: something is not installed, or there is nothing to see.
    """
    from offline_marl.films.videos import film

    assert flags.video is not None
    try:
        made = film(flags.run, flags.video, flags.video_episodes, flags.seed, flags)
    except BadInputError:
        raise
    except Exception as error:
        print(f"warning: no film was made ({said(error)}).", file=sys.stderr)
        return []
    return [("video", f"{made.path} ({made.frames} pictures, {made.fps:g} a second)"), ("pictures", made.sheet)]
