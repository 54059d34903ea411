"""The files of a run, as a job writes them."""
