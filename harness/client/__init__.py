"""The load generator: how requests are sent, stamped and journalled."""
