"""Many runs: jobs, who runs them, and where they stand."""
