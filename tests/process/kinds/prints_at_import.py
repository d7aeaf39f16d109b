"""Prints without a flush when it is imported."""

print("printed at import")


def main() -> None:
    print("printed by the bot")
