import time

time.sleep(60)


async def main() -> None:
    pass
