"""Ray Tune over the hyper-parameters of a solver: search spaces and the sweep."""
