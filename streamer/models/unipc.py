"""UniPC: a solver that reaches clean latents without fresh noise, from a few evaluations.

Zhao et al. 2023, "UniPC: a unified predictor-corrector framework", arXiv:2302.04867: order 2,
data prediction, B(h) = e^h - 1 ("bh2"), for levels x = (1 - sigma) * clean + sigma * noise.
LightX2V ran CausVid's 14B checkpoint with it; few-step students are usually trained to be re-noised
instead, see streamer.models.sampler.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

MAX_ORDER = 2


class UniPC:
    """The solver's memory of one block: the samples and predictions of the last steps.

    Owner: the making of one block.  `step` is called once per noise level, in order.
    """

    def __init__(self, sigmas: Sequence[float]) -> None:
        """sigmas: noise levels of the steps, falling, all above 0; the last step goes to 0."""
        self._sigmas = [*sigmas, 0.0]
        self._next = 0
        self._order = 0
        self._clean: list[Tensor] = []
        self._sample: Tensor | None = None

    @property
    def sample(self) -> Tensor:
        """The corrected sample at the last step's own noise level.

        Raises RuntimeError before the first step.
        """
        if self._sample is None:
            raise RuntimeError("UniPC has no sample before its first step")
        return self._sample

    def step(self, latents: Tensor, clean: Tensor) -> Tensor:
        """Latents at the next noise level; clean ones after the last.

        latents: where the model was asked.  clean: the clean latents that it pointed to.
        """
        here = self._next
        num_steps = len(self._sigmas) - 1
        if here > 0:
            latents = self._corrected(clean)
        self._sample = latents
        self._clean = [*self._clean[1 - MAX_ORDER :], clean]
        self._order = min(MAX_ORDER, here + 1, num_steps - here)
        self._next += 1
        return self._moved(latents, here, here + 1, self._slope(here, here + 1, self._order))

    def _slope(self, start: int, end: int, order: int) -> Tensor | None:
        """Half the change of the predictions over one step, by the two last ones."""
        if order < MAX_ORDER:
            return None
        older, newer = self._clean[-2:]
        return (newer - older) * (-0.5 / self._ratio(start, end))

    def _corrected(self, clean: Tensor) -> Tensor:
        """The last step again, now that the model has been asked where it led to."""
        start, end = self._next - 1, self._next
        newest = self._clean[-1]
        ahead = clean - newest
        if self._order < MAX_ORDER:
            return self._moved(self.sample, start, end, 0.5 * ahead)
        # Two conditions on the weights of the two differences: Zhao et al., eq. 8.
        ratio = self._ratio(start, end)
        growth = _growth(self._sigmas[start], self._sigmas[end])
        gap = -_distance(self._sigmas[start], self._sigmas[end])
        first = growth / gap - 1.0
        second = first / gap - 0.5
        behind = (first - 2.0 * second) / growth / (1.0 - ratio)
        weight = first / growth - behind
        older = (self._clean[-2] - newest) * (behind / ratio)
        return self._moved(self.sample, start, end, older + weight * ahead)

    def _moved(self, latents: Tensor, start: int, end: int, change: Tensor | None) -> Tensor:
        """From level `start` to level `end`: exact for constant predictions, then corrected."""
        level, level_next = self._sigmas[start], self._sigmas[end]
        pull = (1.0 - level_next) * _growth(level, level_next)
        moved = latents * (level_next / level) - self._clean[-1] * pull
        return moved if change is None else moved - change * pull

    def _ratio(self, start: int, end: int) -> float:
        """The step before this one, in units of this one; negative."""
        back = _distance(self._sigmas[start], self._sigmas[start - 1])
        return back / _distance(self._sigmas[start], self._sigmas[end])


def _growth(sigma: float, sigma_next: float) -> float:
    """e^-h - 1, h the step in half the logarithm of the signal-to-noise ratio."""
    if sigma_next == 0.0:
        return -1.0
    return (1.0 - sigma) * sigma_next / (sigma * (1.0 - sigma_next)) - 1.0


def _distance(sigma: float, sigma_next: float) -> float:
    """h: how much log((1 - sigma) / sigma) grows; infinite from pure noise, or to clean."""
    return _log_ratio(sigma_next) - _log_ratio(sigma)


def _log_ratio(sigma: float) -> float:
    if sigma >= 1.0:
        return -math.inf
    return math.inf if sigma <= 0.0 else math.log((1.0 - sigma) / sigma)
