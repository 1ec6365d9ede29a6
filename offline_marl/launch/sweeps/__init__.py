"""Many planned jobs in one folder, none of them twice."""
