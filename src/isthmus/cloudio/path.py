"""What the writer learns about the path from acknowledgements: round trip, bandwidth, and so the window."""

from typing import Final

from isthmus.cloudio.options import StreamOptions

_BUCKET_SECONDS: Final = 5.0  # the shortest round trip is that of the last 5 to 10 s, since paths change
_RATE_SECONDS: Final = 0.1
_RATE_FADES: Final = 0.9


class Path:
    """Estimates for one direction. Round trips in seconds, bandwidth in bytes per second."""

    def __init__(self, options: StreamOptions) -> None:
        self._options = options
        self.smoothed: float | None = None
        self._shortest = [float("inf"), float("inf")]
        self._bucket_until = 0.0
        self._bandwidth = 0.0
        self._rate_since: float | None = None
        self._rate_bytes = 0
        self.window = options.window_least

    def round_trip(self, seconds: float, now: float) -> None:
        """Take one measured round trip, of a segment that was sent once only."""
        self.smoothed = seconds if self.smoothed is None else self.smoothed + (seconds - self.smoothed) / 8
        if now >= self._bucket_until:
            self._shortest = [self._shortest[1], seconds]
            self._bucket_until = now + _BUCKET_SECONDS
        elif seconds < self._shortest[1]:
            self._shortest[1] = seconds

    def delivered(self, count: int, now: float) -> None:
        """Take note that `count` more bytes were acknowledged."""
        if self._rate_since is None:
            self._rate_since = now
            return
        self._rate_bytes += count
        elapsed = now - self._rate_since
        if elapsed < _RATE_SECONDS:
            return
        self._bandwidth = max(self._rate_bytes / elapsed, self._bandwidth * _RATE_FADES)
        self._rate_since, self._rate_bytes = now, 0
        fill = 2 * self._bandwidth * min(self._shortest)
        least, most = self._options.window_least, self._options.window_most
        self.window = int(min(max(fill, least), most)) if fill < float("inf") else least

    def idle(self) -> None:
        """Nothing is under way: the time until the next segment says nothing about the path."""
        self._rate_since = None
        self._rate_bytes = 0

    @property
    def patience(self) -> float:
        """Seconds after which an unacknowledged segment is sent again."""
        options = self._options
        return min(max(2 * (self.smoothed or 0.0), options.resend_floor), options.resend_most)
