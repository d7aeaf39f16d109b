"""What runs in zygotes and bots."""
