"""DICOM's upper layer and message headers as values: bytes in, values out, no input or output, no time.

All of it serves a relay: what passes keeps its bytes. Views over a PDU hold the original and every item nobody here
understands; an edit changes the item it names and the lengths round it, nothing else. Datasets are opaque.
"""
