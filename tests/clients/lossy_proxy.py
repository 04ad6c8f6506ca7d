"""Proxies that lose the first response: each forwards a call, waits until the server has responded, and closes the connection
without passing the response on. So the call took effect, and its caller does not know it. Later connections are forwarded
unchanged. Prints a URL for each port of 127.0.0.1 to forward to.

Usage: lossy_proxy.py PORT...
"""

import asyncio
import sys

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_HEADER_BYTES = 9
HEADERS = 1


async def pump(reader, writer):
    """Forwards bytes until one side closes."""
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


async def pump_until_response(reader, writer):
    """Forwards the frames of HTTP/2 before the first response, such as the settings."""
    while True:
        header = await reader.readexactly(FRAME_HEADER_BYTES)
        if header[3] == HEADERS:
            return
        writer.write(header + await reader.readexactly(int.from_bytes(header[:3])))
        await writer.drain()


class LossyProxy:
    """Forwards to one port, and loses its first response."""

    def __init__(self, port):
        self._port, self._has_lost = port, False

    async def handle(self, reader, writer):
        start = await reader.readexactly(len(PREFACE))
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._port)
        server_writer.write(start)
        requests = asyncio.create_task(pump(reader, server_writer))
        if not self._has_lost:
            if start == PREFACE:
                await pump_until_response(server_reader, writer)
            else:
                await server_reader.read(1)
            self._has_lost = True
            writer.close()
            server_writer.close()
        else:
            await pump(server_reader, writer)
        requests.cancel()


async def main():
    servers = [await asyncio.start_server(LossyProxy(int(port)).handle, "127.0.0.1", 0) for port in sys.argv[1:]]
    for server in servers:
        print("http://{}:{}".format(*server.sockets[0].getsockname()), flush=True)
    await asyncio.gather(*(server.serve_forever() for server in servers))


asyncio.run(main())
