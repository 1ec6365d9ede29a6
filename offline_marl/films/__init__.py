"""Films of episodes: videos, captioned frames and contact sheets."""
