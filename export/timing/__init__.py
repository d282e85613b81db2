"""How fast the exported files are."""
