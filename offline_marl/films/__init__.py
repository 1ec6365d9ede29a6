"""Episodes as videos, captioned frames and contact sheets."""
