"""The demonstration: a Bridge, two Routers and real DICOM devices on this machine, and what happens between them."""
