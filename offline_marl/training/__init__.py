"""Where the siblings meet: run configs become objects, objects become a run folder."""
