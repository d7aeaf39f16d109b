"""The control plane: HTTP, the machines of the bots, the ledger."""

__version__ = "0.1.0"
