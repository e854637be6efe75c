"""Manners towards a server that counts: how much was asked of it, what it cost, and when the next request may go.

Contents: `Usage`, `RequestPace`.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field


@dataclass
class Usage:
    """What a server was asked for so far.

    Attributes:
        requests: requests that were answered.
        retries: requests that failed and were repeated.
        texts: texts that were embedded.
        tokens: as the server counted them.
        estimated: of these, the tokens of replies without a count, at 4 characters each.
        price: of a million tokens; 0 where it is not known.
    """

    requests: int = 0
    retries: int = 0
    texts: int = 0
    tokens: int = 0
    estimated: int = 0
    price: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    @property
    def cost(self) -> float | None:
        """Price of the tokens, None without a price."""
        return self.tokens * self.price / 1e6 if self.price else None

    def add(self, **counts: int) -> None:
        """Add to some of the counts; safe between threads."""
        with self._lock:
            for name, count in counts.items():
                setattr(self, name, getattr(self, name) + count)

    def to_dict(self) -> dict[str, int | float | None]:
        """Return the counts and the cost, for JSON."""
        counts = {name: getattr(self, name) for name in ("requests", "retries", "texts", "tokens", "estimated")}
        return {**counts, "cost": self.cost}

    def __str__(self) -> str:
        """One line for people."""
        tokens = f"{self.tokens:,} tokens" + (f" ({self.estimated:,} of them estimated)" if self.estimated else "")
        cost = "" if self.cost is None else f", cost {self.cost:.6g} at {self.price:g} a million tokens"
        return f"{self.requests:,} requests ({self.retries:,} repeated), {tokens}{cost}"


class RequestPace:
    """Lets requests through so that no window holds more of them, or of tokens, than is allowed.

    Args:
        requests: most requests a window; 0: no limit.
        tokens: most tokens a window; 0: no limit. A request with more goes alone.
        window: seconds.
    """

    def __init__(self, requests: int = 0, tokens: int = 0, window: float = 60.0) -> None:
        self._requests, self._tokens, self._window = requests, tokens, window
        self._sent: deque[list[float]] = deque()  # [time, tokens] of each request of the window
        self._held_until = 0.0
        self._lock = threading.Lock()

    def enter(self, tokens: int, stop: threading.Event) -> list[float]:
        """Wait until a request may go.

        Args:
            tokens: what it will probably count.
            stop: ends the wait early.

        Returns:
            A ticket for `correct`.
        """
        while True:
            with self._lock:
                now = time.monotonic()
                while self._sent and self._sent[0][0] <= now - self._window:
                    self._sent.popleft()
                wait = max(self._held_until - now, self._wait(tokens, now))
                if wait <= 0 or stop.is_set():
                    ticket = [now, float(tokens)]
                    self._sent.append(ticket)
                    return ticket
            stop.wait(wait)

    def _wait(self, tokens: int, now: float) -> float:
        """Seconds until enough of the earlier requests leave the window."""
        leave = 0
        if self._requests:
            leave = max(0, len(self._sent) + 1 - self._requests)
        if self._tokens and self._sent:
            over = sum(ticket[1] for ticket in self._sent) + tokens - self._tokens
            count = 0
            while over > 0 and count < len(self._sent):
                over -= self._sent[count][1]
                count += 1
            leave = max(leave, count)
        return self._sent[leave - 1][0] + self._window - now if leave else 0.0

    def correct(self, ticket: list[float], tokens: int) -> None:
        """Replace a ticket's estimate by the server's count."""
        with self._lock:
            ticket[1] = float(tokens)

    def hold(self, seconds: float) -> None:
        """Let nothing through for some seconds: the server asked for a pause."""
        with self._lock:
            self._held_until = max(self._held_until, time.monotonic() + seconds)
