"""A run: its configuration, its cells, its rows and their summary."""
