"""Plain modules that take ints and tensors: nothing here knows a config or an algorithm."""
