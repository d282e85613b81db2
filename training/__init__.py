"""The application that trains: recipe → data → fit → evaluate → run folder."""
