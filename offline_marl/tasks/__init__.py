"""Tasks: what is learnt from and scored in, by the name of data, of an environment or of a run."""
