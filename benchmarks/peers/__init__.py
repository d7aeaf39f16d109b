"""Those whom we are compared with, each driven by its own native interface."""
