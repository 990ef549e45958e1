"""Who connected which devices, when, and how much; never what."""
