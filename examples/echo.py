"""An echo server: what a client sends comes back."""

from __future__ import annotations

import asyncio

from botproc.contract import Context


async def main(ctx: Context, *, port: int = 0) -> None:
    """Sends back what it gets, on a port of the loopback address; 0 takes a free one."""
    clients = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal clients
        clients += 1
        ctx.log.info("client %d", clients)
        while data := await reader.read(4096):
            writer.write(data)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    ctx.status(f"listens on port {server.sockets[0].getsockname()[1]}")
    ctx.ready()
    await ctx.stopping
    server.close()
