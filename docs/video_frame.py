"""One picture as videos have it: `python docs/video_frame.py RUN [STEP]` writes docs/pictures/video_frame.png."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path

from offline_marl.environments.episodes import episode_seeds
from offline_marl.films.captions import COLORS, add_caption, import_pillow
from offline_marl.films.frames import episode_frames, open_for_rendering
from offline_marl.films.videos import caption_of


def main(run: str, step: str = "20") -> None:
    policy, env = open_for_rendering(run, COLORS)
    frame = next(islice(episode_frames(policy, env, episode_seeds(0, 1)), int(step), None))
    picture = add_caption(frame.picture, caption_of(Path(run).name, frame), env.spec.agents)
    env.close()
    place = Path(__file__).resolve().parent / "pictures" / "video_frame.png"
    import_pillow()[0].fromarray(picture).save(place, optimize=True)
    print(place)


if __name__ == "__main__":
    main(*sys.argv[1:])
