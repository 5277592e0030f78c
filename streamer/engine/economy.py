"""What a model has to save with: a small decoder, a shorter list of steps, or neither."""

from __future__ import annotations

from dataclasses import dataclass

from streamer.errors import ConfigError
from streamer.models.sampler import DenoisingSteps
from streamer.models.vae import VideoVAE
from streamer.stream import Economy, Saving


@dataclass(frozen=True)
class Means:
    """The decoders and the lists of steps of a model.  Owner: DiffusionModel.

    small_decoder, reduced_steps: None where the configuration names none.
    """

    name: str
    decoder: VideoVAE
    small_decoder: VideoVAE | None
    steps: DenoisingSteps
    reduced_steps: DenoisingSteps | None

    @property
    def able(self) -> frozenset[Saving]:
        """What can be saved."""
        there: dict[Saving, object] = {"decoder": self.small_decoder, "steps": self.reduced_steps}
        return frozenset(saving for saving, means in there.items() if means is not None)

    def decoder_for(self, economy: Economy) -> VideoVAE:
        """The decoder in use.  Raises ConfigError when it is not there."""
        if not economy.decoder:
            return self.decoder
        if self.small_decoder is None:
            raise ConfigError(
                f"the stream was made with a small decoder in part, and {self.name} has none here; "
                "name one in model.small_decoder, with a weights file that is there"
            )
        return self.small_decoder

    def steps_for(self, economy: Economy) -> DenoisingSteps:
        """The steps in use.  Raises ConfigError when they are not there."""
        if not economy.steps:
            return self.steps
        if self.reduced_steps is None:
            raise ConfigError(
                f"the stream was made with fewer steps in part, and {self.name} has no such list; "
                "name it in model.sampler.reduced_step_list"
            )
        return self.reduced_steps
