"""Steps that methods share."""
