"""What can the client do on this machine? Numbers against servers whose truth is known."""
