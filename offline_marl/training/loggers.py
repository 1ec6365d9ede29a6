"""Former place of `runs.loggers`, for plugins that import it from here; kept for one release."""

from offline_marl.runs.loggers import Logger as Logger
from offline_marl.runs.loggers import LoggerError as LoggerError
from offline_marl.runs.loggers import Start as Start
from offline_marl.runs.loggers import loggers as loggers
