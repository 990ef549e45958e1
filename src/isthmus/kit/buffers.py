"""Buffers that a protocol reads into, and takes what is whole out of."""


def with_room(buffer: bytearray, start: int, end: int, capacity: int) -> bytearray:
    """Return a buffer of at least `capacity` bytes with what stands from `start` to `end` moved to its beginning.

    It is the same one unless that is too small.
    """
    left = end - start
    if capacity > len(buffer):
        grown = bytearray(capacity)
        grown[:left] = memoryview(buffer)[start:end]
        return grown
    if start:
        view = memoryview(buffer)
        view[:left] = view[start:end]
    return buffer
