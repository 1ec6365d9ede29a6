"""Former place of `launch.jobs.job`: jobs that wait in a queue name it in their pickles."""

from offline_marl.launch.jobs.job import Job as Job
