"""The program's own commands."""
