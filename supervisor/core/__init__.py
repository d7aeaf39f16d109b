"""What is pure: the words, the machine of one bot, how an end is judged. No clock, no I/O, no asyncio."""
