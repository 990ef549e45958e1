"""Cloud I/O: ordered, encrypted, flow-controlled byte streams over any pair of providers. Knows nothing of DICOM.

The decisions are in `core` and the files below it, which do no I/O and take the time as an argument; `stream` performs
them. The protocol is docs/protocol/streams.md.
"""
