"""A proxy that hides what is behind it: no header of the server goes on, and every answer is called JSON.

As the load-balancing proxies of disaggregated prefill do. `python hiding_proxy.py PORT` prints its address.
"""

import asyncio
import sys


async def _pass_on(reader, writer, port):
    """One connection: each request with a connection of its own to the server, the body as it comes."""
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
            body = await reader.readexactly(int(fields.get(b"content-length", 0)))
            back, forth = await asyncio.open_connection("127.0.0.1", port)
            forth.write(head.split(b"\r\n", 1)[0] + b"\r\nHost: x\r\nConnection: close\r\n")
            forth.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
            answer = await back.readuntil(b"\r\n\r\n")
            chunked = b"transfer-encoding: chunked" in answer.lower()
            status = answer.split(b"\r\n", 1)[0].split(b" ", 1)[1]
            writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Type: application/json\r\n")
            writer.write(b"Transfer-Encoding: chunked\r\n\r\n")
            while data := await back.read(65536):
                writer.write(data if chunked else b"%x\r\n%s\r\n" % (len(data), data))
                await writer.drain()
            writer.write(b"" if chunked else b"0\r\n\r\n")
            forth.close()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def main(port):
    """Serve until stdin closes."""
    server = await asyncio.start_server(lambda r, w: _pass_on(r, w, port), "127.0.0.1", 0)
    sys.stdout.write(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
