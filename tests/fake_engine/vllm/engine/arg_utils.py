"""Where the real one defines its flags."""
