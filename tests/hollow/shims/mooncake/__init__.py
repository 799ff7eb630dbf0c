"""A stand-in for Mooncake: engines find each other by its addresses, and what is transferred stays as it was."""
