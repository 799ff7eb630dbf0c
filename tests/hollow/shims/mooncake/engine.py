"""The transfer engine that vllm-ascend's connectors call: everything succeeds, and no byte moves."""

import socket


class TransferEngine:
    """As mooncake.engine.TransferEngine: 0 is success."""

    def __init__(self):
        self._port = 0

    def initialize(self, hostname, metadata_server, protocol, device_name):
        """Take a port of this machine, as the real one does to be found."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        return 0

    def get_rpc_port(self):
        """The port that was taken."""
        return self._port

    def register_memory(self, address, length):
        """Nothing has to be prepared."""
        return 0

    def batch_transfer_sync_read(self, session, sources, targets, lengths):
        """The hollow device computes nothing, so what would be read is as good as what is there."""
        return 0
