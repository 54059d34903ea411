"""The cluster: connection, growth, and what an actor gets of it."""
