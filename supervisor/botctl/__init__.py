"""The command line to look after a fleet: a client of the API, and nothing else."""
