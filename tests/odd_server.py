"""A server in a thread that answers every request by a function of its path, its head and its body."""

import contextlib
import socket
import threading


class OddServer:
    """On loopback; `answer(path, head, body)` gives raw bytes, or an iterator of them that may never end."""

    def __init__(self, answer, host="127.0.0.1"):
        self._answer = answer
        self.seen = []
        self._socket = socket.create_server((host, 0))
        self.port = self._socket.getsockname()[1]
        self.url = f"http://{host}:{self.port}"
        self._closing = False

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._closing = True
        self._socket.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self._socket.accept()
                threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer):
        with peer, contextlib.suppress(OSError, ValueError):
            file = peer.makefile("rb")
            while first := file.readline():
                head = first
                while (line := file.readline()) not in (b"\r\n", b""):
                    head += line
                length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
                body = file.read(length)
                path = first.split()[1].decode()
                self.seen.append((path, head.decode(), body))
                answer = self._answer(path, head.decode(), body)
                for piece in [answer] if isinstance(answer, bytes) else answer:
                    if self._closing:
                        return
                    peer.sendall(piece)


def sized(body, status="200 OK", *more):
    """A whole answer of known length."""
    body = body if isinstance(body, bytes) else body.encode()
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *more, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body
