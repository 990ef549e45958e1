"""The numbers of a stream. The defaults are what docs/protocol/streams.md and the benchmarks settled on."""

from dataclasses import dataclass, replace

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """How one stream behaves. Sizes in bytes, times in seconds.

    Attributes:
        segment_bytes: payload at which a segment is sealed without waiting for more.
        inline_bytes: the largest notice that carries its segment where bulk in notices is not cheap.
        window_least: what may be under way before anything is known of the path.
        window_most: what may be under way at the most, and so the memory of one direction.
        idle_tick: how long a segment that is not full waits for more bytes while others are under way.
        ack_delay: how long an acknowledgement waits for company.
        resend_floor: the shortest time after which an unacknowledged segment is sent again.
        resend_most: the longest.
        gap_grace: how long the reader leaves a gap to the writer before it looks for the blob.
        status_restless: how often the status is repeated while something is open.
        status_idle: how often when nothing is.
        silence_limit: how long the far side may stay unheard before the stream is given up.
        backoff_first: how long after the first trouble with a provider it is tried again; doubles.
        backoff_most: the longest such wait.
        blob_lanes: how many blobs are under way at once.
    """

    segment_bytes: int = 15 * 16 * 1024
    inline_bytes: int = 96 * 1024
    window_least: int = 4 * MIB
    window_most: int = 32 * MIB
    idle_tick: float = 0.002
    ack_delay: float = 0.05
    resend_floor: float = 0.250
    resend_most: float = 2.0
    gap_grace: float = 0.5
    status_restless: float = 1.0
    status_idle: float = 5.0
    silence_limit: float = 25.0
    backoff_first: float = 0.1
    backoff_most: float = 2.0
    blob_lanes: int = 8

    def sparing(self) -> "StreamOptions":
        """Return what suits services that are paid by the request: few large segments, few statuses.

        Such services are slow and lose next to nothing. The end of a message is still sealed and sent at once. A
        segment of 4 MiB takes four to six requests, however long the line is, and so a gibibyte some 1,500.
        """
        return replace(
            self,
            segment_bytes=4 * MIB,
            window_least=self.window_most,
            idle_tick=8.0,
            ack_delay=2.0,
            resend_floor=4.0,
            resend_most=8.0,
            gap_grace=10.0,
            status_restless=8.0,
            status_idle=8.0,
        )
