"""What keeps secrets out of files, memory bounded and interrupted runs whole."""
