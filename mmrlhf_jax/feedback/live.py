"""The dashboard's numbers while judgements come in."""

import asyncio
import json
import time

from mmrlhf_jax.feedback.dashboard import overview
from mmrlhf_jax.feedback.desk import Desk

OVERVIEW_SECONDS = 2.0  # how old the numbers may be, at least
OVERVIEW_SHARE = 0.1  # of the time that may go into computing them


class Overview:
    """What the dashboard shows, computed beside the raters' requests and not for each visitor anew."""

    def __init__(self, desk: Desk):
        self.desk = desk
        self._text, self._until = b"", 0.0
        self._one_at_a_time = asyncio.Lock()

    async def now(self) -> bytes:
        """As JSON; a few seconds old at most, more where computing it takes long."""
        async with self._one_at_a_time:
            if time.monotonic() >= self._until:
                start = time.monotonic()
                self._text = await asyncio.to_thread(self._compute)
                ended = time.monotonic()
                self._until = ended + max(OVERVIEW_SECONDS, (ended - start) / OVERVIEW_SHARE)
        return self._text

    def _compute(self) -> bytes:
        with self.desk.store.reader() as store:
            return json.dumps(overview(store, self.desk.items)).encode()
