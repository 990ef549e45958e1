"""Several Bridges of one network: what they tell each other, and by which way."""
