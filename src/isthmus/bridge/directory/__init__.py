"""What sites say about themselves and to each other, kept and handed on as they signed it."""
