"""The run folder and all that lies in it: settings, checkpoints, logs, the policy."""
