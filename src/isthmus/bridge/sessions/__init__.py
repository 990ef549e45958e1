"""Live sessions: who may open one, who relays it, when it is over."""
