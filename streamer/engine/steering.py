"""What a script says about one block: seed, prompt, the texts it is made of, and what is saved.

Every kind of stream in the worker asks this; it is plain arithmetic on the events, so a stream that
grew block by block and one that was restored from its script agree by construction.
"""

from __future__ import annotations

from dataclasses import dataclass

from streamer.stream import (
    NO_ECONOMY,
    Economy,
    Event,
    Prompt,
    Reseed,
    Script,
    Transition,
    TransitionKind,
)

Mixture = tuple[tuple[str, float], ...]
"""Texts and their weights, which add up to 1."""

NO_TEXT: Mixture = (("", 1.0),)
"""What holds before the first prompt."""


@dataclass
class Steering:
    """The seed, the texts and the economy in force, from block to block.

    Owner: one stream in the worker, as long as it lives.  default: the transition of a prompt that
    names none.
    """

    seed: int
    default: Transition
    prompt_id: str = ""
    economy: Economy = NO_ECONOMY
    _before: Mixture = NO_TEXT
    _now: Mixture = NO_TEXT
    _first: int = 0
    _blocks: int = 1

    @classmethod
    def at(cls, script: Script, block: int, default: Transition) -> Steering:
        """What holds when `block` starts, before that block's own events."""
        steering = cls(script.spec.seed, default)
        for index, event in script.events:
            if index < block:
                steering.apply(index, event)
        return steering

    def apply(self, block: int, event: Event) -> None:
        """Let an event take effect at the start of `block`."""
        if isinstance(event, Reseed):
            self.seed = event.seed
        elif isinstance(event, Economy):
            self.economy = event
        elif isinstance(event, Prompt):
            transition = self.transition_of(event)
            is_blend = transition.kind is TransitionKind.BLEND and self._now != NO_TEXT
            self._before = self.mixture(block - 1)
            self._now = ((event.text, 1.0),)
            self._first = block
            self._blocks = transition.blocks if is_blend else 1
            self.prompt_id = event.id

    def transition_of(self, prompt: Prompt) -> Transition:
        """The transition of a prompt: its own, or the default."""
        return prompt.transition or self.default

    def mixture(self, block: int) -> Mixture:
        """The texts in force during `block`.

        A blend over n blocks gives its new text the weight k / n in its k-th block, k = 1..n, so
        that the first block already moves; the rest stays with what was in force before it.
        """
        share = min(1.0, max(0, block - self._first + 1) / self._blocks)
        weights: dict[str, float] = {}
        for mixture, part in ((self._before, 1.0 - share), (self._now, share)):
            for text, weight in mixture:
                weights[text] = weights.get(text, 0.0) + weight * part
        return tuple((text, weight) for text, weight in weights.items() if weight > 0.0)
