"""Who sends a request: a rater, the dashboard's owner, or nobody that is known here."""

from starlette.exceptions import HTTPException
from starlette.requests import Request

from mmrlhf_jax.feedback.desk import Desk
from mmrlhf_jax.feedback.links import Links

COOKIE = "session"


class Visitors:
    """Recognises them by the cookie that their link left. What is not theirs ends in HTTPException."""

    def __init__(self, links: Links, desk: Desk):
        self.links, self.desk = links, desk
        self._csrf_purpose = f"csrf {desk.store.name}"
        self._known: dict[tuple[str, str], int] = {}  # tokens that were found right, one or two a rater

    def visitor(self, request: Request) -> int:
        """The id of a rater, or DASHBOARD."""
        who = self._who("session", request.cookies.get(COOKIE, ""))
        if who is None:
            raise HTTPException(401, "open the link that you were given")
        return who

    def rater(self, request: Request) -> int:
        """The id of a rater."""
        who = self.visitor(request)
        if who not in self.desk.names:
            raise HTTPException(401, "this is not a rater's link")
        return who

    def posting(self, request: Request) -> int:
        """The id of a rater whose page sent the token that only it can read."""
        who = self.rater(request)
        if self._who(self._csrf_purpose, request.headers.get("x-csrf-token", "")) != who:
            raise HTTPException(403, "reload the page")
        return who

    def csrf(self, who: int) -> str:
        """What a rater's page sends with every POST: to this store and no other one of the same secret."""
        return self.links.token(self._csrf_purpose, who)

    def _who(self, purpose: str, token: str) -> int | None:
        who = self._known.get((purpose, token))
        if who is None:
            who = self.links.who(purpose, token)
            if who is not None:
                self._known[purpose, token] = who
        return who
