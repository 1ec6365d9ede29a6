"""Former names of jobs, for those that were queued before they moved; kept for one release."""
