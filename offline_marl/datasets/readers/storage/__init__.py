"""Storage of arrays in files that may come from anybody: HDF5, npy, pickles, archives, the hub; tables read lazily."""
