"""One run on any machine: what a job is, who runs it, and where it stands."""
