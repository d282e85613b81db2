"""Stand-ins for a model server."""
