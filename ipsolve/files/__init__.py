"""Local paths and URIs."""
