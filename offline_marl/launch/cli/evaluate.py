"""Command `offline-marl evaluate`: score of a run, and a film of it."""

from __future__ import annotations

from collections.abc import Sequence

from offline_marl.core.config import ConfigError, build
from offline_marl.core.errors import BadInputError, WorkError, sentence
from offline_marl.launch.cli.flags import EvaluateFlags, read


class FilmError(WorkError, RuntimeError):
    """A run that is scored could not be filmed; the message is one sentence."""


def run(args: Sequence[str]) -> None:
    """Score, and film, the newest checkpoint of a run."""
    summary = "Scores a run's newest checkpoint in the environment that its data came from, or in another."
    usage = (
        "RUN [--episodes N] [--seed N] [--environment NAME] [--video FILE.mp4 [--video-episodes N]] [--show] "
        "[--infos FILE.csv]"
    )
    flags: EvaluateFlags = build(EvaluateFlags, read(EvaluateFlags, "evaluate", usage, summary, args))
    if flags.video is None and "video_episodes" in flags.model_fields_set:
        raise ConfigError("--video-episodes counts what is filmed: it needs --video FILE.mp4.")

    from offline_marl.training.run import evaluate

    shown: list[tuple[str, object]] = []
    failure: FilmError | None = None
    if flags.show:
        from offline_marl.films.window import show

        show(flags.run, flags.episodes, flags.seed, flags)
    if flags.video is not None:  # first: what it lacks is said before a long evaluation
        try:
            shown = _film(flags)
        except FilmError as error:
            failure = error  # told when the score is there: it costs the film alone
    place = (flags.environment, flags.env_settings, flags.max_steps)
    print(evaluate(flags.run, flags.episodes, flags.seed, *place, infos=flags.infos))
    if flags.infos is not None:
        shown.append(("infos", flags.infos))
    for name, value in shown:
        print(f"{name:<12}{value}")
    if failure is not None:
        raise failure


def _film(flags: EvaluateFlags) -> list[tuple[str, object]]:
    """Film the run.

    Raises:
        BadInputError: It cannot be filmed: something is not installed, or there is nothing to see.
        FilmError: Something failed on the way.
    """
    from offline_marl.films.videos import film

    assert flags.video is not None
    try:
        made = film(flags.run, flags.video, flags.video_episodes, flags.seed, flags)
    except BadInputError:
        raise
    except Exception as error:
        raise FilmError(f"No film was made: {sentence(error)}") from None
    return [("video", f"{made.path} ({made.frames} pictures, {made.fps:g} a second)"), ("pictures", made.sheet)]
