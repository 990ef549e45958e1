"""Live sessions: set up from either end, joined to a stream, and what they have in common."""
