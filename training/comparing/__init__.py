"""Networks compared over seeds, in pairs."""
