"""Former place of `launch.jobs.worker`: jobs that wait in a queue name it in their pickles."""

from offline_marl.launch.jobs.worker import Work as Work
