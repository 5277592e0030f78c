"""Watching together: one director, many viewers, suggestions, and how the direction moves on."""

from __future__ import annotations

from typing import Any

import pytest

from streamer.errors import BusyError, NotDirectorError, StreamStateError
from streamer.server.audience import SUGGESTION_LIMIT, SUGGESTIONS_EACH, Audience, Member
from streamer.server.protocol import Message, PromptField

Serve = Any


class Ear:
    def __init__(self) -> None:
        self.told: list[Message] = []

    def tell(self, message: Message) -> None:
        self.told.append(message)


def seated(viewers: int = 2) -> tuple[Audience, Member, list[Member]]:
    audience = Audience(clock=lambda: 0.0)
    director = audience.join(Ear(), "Ada", audience.token)
    return audience, director, [audience.join(Ear(), None, None) for _ in range(viewers)]


def wish(text: str = "a comet") -> PromptField:
    return PromptField(id="p9", text=text)


def suggest_all(audience: Audience, members: list[Member]) -> None:
    for member in members:
        for _ in range(SUGGESTIONS_EACH):
            audience.suggest(member, wish())


def test_a_replayed_token_steers_no_longer() -> None:
    audience, director, (one, two) = seated()
    old = audience.token
    assert audience.hand_over(director, two.id) is two
    assert (director.is_director, one.is_director, two.is_director) == (False, False, True)
    with pytest.raises(NotDirectorError, match="not that of this stream"):
        audience.join(Ear(), "replay", old)
    assert audience.join(Ear(), "two again", audience.token).is_director
    with pytest.raises(NotDirectorError):
        audience.hand_over(director, one.id)


def test_the_direction_goes_only_to_somebody_who_is_there() -> None:
    audience, director, (one, _) = seated()
    audience.leave(one)
    for to in (one.id, "m-99", director.id):
        with pytest.raises(StreamStateError):
            audience.hand_over(director, to)


def test_suggestions_wait_for_the_director_and_are_bounded() -> None:
    audience, director, viewers = seated(30)
    with pytest.raises(StreamStateError, match="no suggestions"):
        audience.suggest(viewers[0], wish())
    audience.open_suggestions(director, True)
    for _ in range(SUGGESTIONS_EACH):
        audience.suggest(viewers[0], wish())
    with pytest.raises(BusyError, match="of yours wait"):
        audience.suggest(viewers[0], wish())
    with pytest.raises(BusyError, match=f"{SUGGESTION_LIMIT} suggestions wait"):
        suggest_all(audience, viewers[1:])
    waiting = audience.suggestions().suggestions
    assert len(waiting) == SUGGESTION_LIMIT
    with pytest.raises(NotDirectorError):
        audience.pick(viewers[0], waiting[0].id)
    assert audience.pick(director, waiting[0].id).text == "a comet"
    audience.dismiss(director, waiting[1].id)
    for taken in waiting[:2]:
        with pytest.raises(StreamStateError, match="does not wait"):
            audience.pick(director, taken.id)
    audience.open_suggestions(director, False)
    assert audience.suggestions().suggestions == []


async def test_a_late_viewer_is_told_what_was_shown_and_who_is_there(serve: Serve) -> None:
    served = await serve()
    director = await served.talk()
    await director.greet(name="Ada")
    stream = await director.start("red")
    await director.hear("prompt_applied", prompt_id="p1")
    await director.say("set_prompt", prompt={"id": "p2", "text": "blue"})
    await director.hear("prompt_applied", prompt_id="p2")
    late = await served.talk()
    await late.greet(stream=stream["id"], name="Bo")
    assert (await late.hear("stream"))["prompt"]["text"] == "blue"
    history = (await late.hear("history"))["prompts"]
    assert [each["text"] for each in history] == ["red", "blue"]
    audience = await late.hear("audience")
    assert [(m["name"], m["is_director"]) for m in audience["members"]] == [
        ("Ada", True),
        ("Bo", False),
    ]
    assert audience["you"] == audience["members"][1]["id"]


async def test_a_new_seed_reaches_everybody_and_who_comes_after_it(serve: Serve) -> None:
    served = await serve()
    director, viewer = await served.talk(), await served.talk()
    await director.greet()
    stream = await director.start("red", seed=7)
    await viewer.greet(stream=stream["id"])
    assert (await viewer.hear("stream"))["seed"] == 7
    await director.hear("prompt_applied")
    await director.say("set_seed", seed=12)
    told = await viewer.hear("seed_applied")
    assert told == await director.hear("seed_applied", seed=12)
    late = await served.talk()
    await late.greet(stream=stream["id"])
    assert (await late.hear("stream"))["seed"] == 12
    recipe = await served.http.get(f"/api/streams/{stream['id']}")
    assert recipe.json()["seed"] == 12


async def test_a_viewer_suggests_and_the_director_picks(serve: Serve) -> None:
    served = await serve()
    director, viewer = await served.talk(), await served.talk()
    await director.greet()
    stream = await director.start("red")
    await viewer.greet(stream=stream["id"], name="Bo")
    await viewer.say("suggest", prompt={"id": "x", "text": "a comet"})
    assert await viewer.refusal() == ("stream_state", "suggest")
    await director.say("open_suggestions", is_open=True)
    await viewer.hear("audience", suggestions_open=True)
    await viewer.say("suggest", prompt={"id": "x", "text": "a comet"})
    while not (waiting := (await director.hear("suggestions"))["suggestions"]):
        pass
    assert (waiting[0]["text"], waiting[0]["name"]) == ("a comet", "Bo")
    await viewer.say("pick", suggestion_id=waiting[0]["id"])
    assert await viewer.refusal() == ("not_director", "pick")
    await director.say("pick", suggestion_id=waiting[0]["id"])
    assert (await viewer.hear("prompt_applied", text="a comet"))["prompt_id"] == waiting[0]["id"]


async def test_the_direction_changes_hands_and_the_old_token_is_void(serve: Serve) -> None:
    served = await serve()
    director, viewer = await served.talk(), await served.talk()
    await director.greet()
    stream = await director.start("red")
    await viewer.greet(stream=stream["id"])
    me = (await viewer.hear("audience"))["you"]
    await director.say("hand_over", to=me)
    token = (await viewer.hear("direction"))["token"]
    assert token != stream["token"]
    assert (await director.hear("direction"))["token"] is None
    await director.say("set_prompt", prompt={"id": "p2", "text": "blue"})
    assert await director.refusal() == ("not_director", "set_prompt")
    await viewer.say("set_prompt", prompt={"id": "p3", "text": "green"})
    await viewer.hear("prompt_accepted", prompt_id="p3")
    path = f"/api/streams/{stream['id']}"
    for given, status in ((stream["token"], 403), (token, 204)):
        headers = {"Authorization": f"Bearer {given}"}
        assert (await served.http.delete(path, headers=headers)).status_code == status


async def test_many_that_come_and_go_are_told_together(serve: Serve) -> None:
    served = await serve()
    director = await served.talk()
    await director.greet()
    stream = await director.start("red")
    guests = [await served.talk() for _ in range(10)]
    for guest in guests:
        await guest.greet(stream=stream["id"])
        await guest.socket.close()
    await director.say("ping", id=1)
    told = 0
    async for text in director.socket:
        told += '"type":"audience"' in str(text)
        if '"type":"pong"' in str(text):
            break
    assert told < 10
    served_audience = await director.hear("audience")
    assert len(served_audience["members"]) >= 1
