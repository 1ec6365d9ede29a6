"""Jobs: one run or fit on any machine, the executors that start it, and its status."""
