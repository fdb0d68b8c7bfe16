"""Links and tokens: derived from the store's secret, so that they outlive a restart and none is stored."""

import base64
import hashlib
import hmac
from typing import NamedTuple

DASHBOARD = 0  # stands in place of a rater's id; raters count from 1


class Links(NamedTuple):
    """Makes and recognises tokens of one store.

    A token is HMAC-SHA256(secret, purpose and id), 192 bits of it: nobody makes one up without the secret.
    """

    secret: bytes

    def token(self, purpose: str, who: int) -> str:
        """The token of `who` (a rater's id, or DASHBOARD), e.g. "3-uV0..."; purposes share none."""
        mac = hmac.digest(self.secret, f"{purpose} {who}".encode(), hashlib.sha256)
        return f"{who}-{base64.urlsafe_b64encode(mac[:24]).decode()}"

    def who(self, purpose: str, token: str) -> int | None:
        """Whose token this is, None if nobody's."""
        digits = token.partition("-")[0]
        if not (digits.isascii() and digits.isdigit() and len(digits) < 10 and token.isascii()):
            return None
        who = int(digits)
        return who if hmac.compare_digest(token, self.token(purpose, who)) else None

    def path(self, who: int) -> str:
        """The path of the link that is given to a rater, or to whoever may see the dashboard."""
        return f"/enter/{self.token('link', who)}"
