"""Sources of batches: recorded rows, imagined ones, live episodes, mixtures."""
