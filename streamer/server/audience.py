"""Who watches a stream together: its director, its viewers, and what they suggest.

Pure bookkeeping: no sockets.  The token makes a director; it changes hands with the direction, so
that an old link steers no longer.
"""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from streamer.errors import BusyError, NotDirectorError, StreamStateError
from streamer.server.access import Rate, new_token, require_token
from streamer.server.protocol import (
    AudienceField,
    MemberField,
    Message,
    PromptField,
    SuggestionField,
    Suggestions,
)

SUGGESTION_LIMIT = 50
"""So many suggestions wait at most."""

SUGGESTIONS_EACH = 3
"""So many of them may be of one viewer."""

MEMBERS_SHOWN = 50
"""So many members are named to everybody; the others are counted."""


class Listener(Protocol):
    """One connection."""

    def tell(self, message: Message) -> None:
        """Send a message soon; returns at once."""


@dataclass
class Member:
    """One of the audience.  id: what others call it by; it is no secret."""

    id: str
    name: str
    listener: Listener
    is_director: bool
    rate: Rate = field(repr=False)


@dataclass(frozen=True)
class Suggestion:
    """A prompt that a member proposed."""

    id: str
    prompt: PromptField
    by: str
    name: str


class Audience:
    """The audience of one stream.  Owner: Held.  Lives on the event loop.

    on_changed: called when who is there, or who directs, has changed.
    """

    def __init__(
        self,
        *,
        on_changed: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.token = new_token()
        self.are_suggestions_open = False
        self.members: dict[str, Member] = {}
        self._on_changed = on_changed
        self._clock = clock
        self._suggestions: dict[str, Suggestion] = {}
        self._numbers = itertools.count(1)

    def join(self, listener: Listener, name: str | None, token: str | None) -> Member:
        """Take a connection in; with the token as a director.

        Raises NotDirectorError when a token is given that is not, or no longer, the right one.
        """
        if token is not None:
            require_token(token, self.token)
        member = Member(
            id=f"m-{next(self._numbers)}",
            name=" ".join((name or "").split()),
            listener=listener,
            is_director=token is not None,
            rate=Rate(per_s=0.5, burst=3, clock=self._clock),
        )
        self.members[member.id] = member
        self._on_changed()
        return member

    def leave(self, member: Member) -> None:
        """A connection is gone; what it suggested stays.  Idempotent."""
        if self.members.pop(member.id, None) is not None:
            self._on_changed()

    def hand_over(self, director: Member, to: str) -> Member:
        """Make another member the only director.  Returns it; `token` is a new one.

        Raises NotDirectorError or StreamStateError.
        """
        self._require_director(director)
        heir = self.members.get(to)
        if heir is None:
            raise StreamStateError(f"{to!r} is not in the audience any more; choose somebody else")
        if heir.is_director:
            raise StreamStateError(f"{to!r} directs this stream already")
        self.token = new_token()
        for member in self.members.values():
            member.is_director = member is heir
        self._on_changed()
        return heir

    def open_suggestions(self, director: Member, is_open: bool) -> None:
        """Let viewers suggest, or no longer; closing drops what waits."""
        self._require_director(director)
        self.are_suggestions_open = is_open
        if not is_open:
            self._suggestions.clear()
        self._on_changed()

    def suggest(self, member: Member, prompt: PromptField) -> Suggestion:
        """Propose a prompt.  Raises PromptError, StreamStateError or BusyError."""
        prompt.prompt()
        if not self.are_suggestions_open:
            raise StreamStateError("the director takes no suggestions at the moment")
        waiting = list(self._suggestions.values())
        if sum(each.by == member.id for each in waiting) >= SUGGESTIONS_EACH:
            raise BusyError(
                f"{SUGGESTIONS_EACH} suggestions of yours wait already; wait until one is picked"
            )
        if len(waiting) >= SUGGESTION_LIMIT:
            raise BusyError(f"{SUGGESTION_LIMIT} suggestions wait already; try again later")
        member.rate.take("suggestions")
        made = Suggestion(f"g-{secrets.token_hex(4)}", prompt, member.id, member.name)
        self._suggestions[made.id] = made
        return made

    def pick(self, director: Member, suggestion_id: str) -> PromptField:
        """Take a suggestion out, to be played.  Its prompt has the suggestion's id."""
        self._require_director(director)
        taken = self._take(suggestion_id)
        return taken.prompt.model_copy(update={"id": taken.id})

    def dismiss(self, director: Member, suggestion_id: str) -> None:
        """Drop a suggestion."""
        self._require_director(director)
        self._take(suggestion_id)

    def told(self, member: Member, num_viewers: int) -> AudienceField:
        """What one member is told about the audience."""
        shown = sorted(self.members.values(), key=lambda each: not each.is_director)
        return AudienceField(
            you=member.id,
            viewers=num_viewers,
            members=[
                MemberField(id=each.id, name=each.name, is_director=each.is_director)
                for each in shown[:MEMBERS_SHOWN]
            ],
            suggestions_open=self.are_suggestions_open,
        )

    def suggestions(self) -> Suggestions:
        """All suggestions that wait, oldest first."""
        return Suggestions(
            suggestions=[
                SuggestionField(id=each.id, text=each.prompt.text, by=each.by, name=each.name)
                for each in self._suggestions.values()
            ]
        )

    def _take(self, suggestion_id: str) -> Suggestion:
        taken = self._suggestions.pop(suggestion_id, None)
        if taken is None:
            raise StreamStateError(f"the suggestion {suggestion_id!r} does not wait any more")
        return taken

    @staticmethod
    def _require_director(member: Member) -> None:
        if not member.is_director:
            raise NotDirectorError("only the director may do this; you are watching")
