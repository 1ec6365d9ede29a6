"""Where comparisons, data and reward models meet: pairs of recorded segments, fits, reports, learned rewards."""
