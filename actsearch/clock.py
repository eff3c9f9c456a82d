"""Where the time of a search goes, for timing.json."""

from __future__ import annotations

import time

from actsearch.records import Event, GenerationStarted, RungReached


class Clock:
    """Adds up where the time goes from `start` (seconds since the epoch), by the events of a search."""

    def __init__(self, start: float) -> None:
        self.start = start
        self.spent: dict[str, float] = dict.fromkeys(
            ("startup_s", "training_s", "asking_s", "finalists_s", "cost_s", "report_s", "tracking_wait_s"), 0.0
        )
        self.first_rung_s: float | None = None
        self._mark = self.start

    def lap(self, part: str) -> None:
        """Adds the time since the last lap to a part."""
        now = time.time()
        self.spent[part] += now - self._mark
        self._mark = now

    def event(self, event: Event) -> None:
        if self.first_rung_s is None and isinstance(event, RungReached):
            self.first_rung_s = time.time() - self.start
        if event.stage == "finalists":
            self.lap("finalists_s")
        else:
            self.lap("asking_s" if isinstance(event, GenerationStarted) else "training_s")

    def summary(self, tracking_s: float) -> dict[str, float | None]:
        return {
            "wall_s": round(time.time() - self.start, 3),
            "first_rung_s": None if self.first_rung_s is None else round(self.first_rung_s, 3),
            **{part: round(seconds, 3) for part, seconds in self.spent.items()},
            "tracking_s": round(tracking_s, 3),
        }
