"""Keys, signatures, offers and sealed segments. No I/O: randomness and time are arguments (docs/protocol)."""
