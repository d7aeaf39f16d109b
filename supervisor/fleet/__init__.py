"""All bots: their actors, and what they share."""
