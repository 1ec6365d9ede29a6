"""`python -m offline_marl` is the command line."""

from offline_marl.launch.cli import main

main()
