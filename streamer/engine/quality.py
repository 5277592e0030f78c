"""Whether eight-bit numbers are good enough for a model: measured at the start, never assumed.

Both models are led along the same way: every step starts from the latents that the unchanged model
came to, and both see the same history.  Free-running streams drift apart from the least rounding,
which says nothing of quality.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from streamer_kernels.quantise import Kind
from torch import Tensor

from streamer.errors import ConfigError
from streamer.models.guidance import FlowModel
from streamer.models.quantised import psnr_db
from streamer.models.rolling import RollingContext
from streamer.models.sampler import DenoisingSteps, add_noise, to_clean, write_block
from streamer.models.transformer import PromptKV
from streamer.models.vae import VideoVAE

log = logging.getLogger(__name__)

FP8_CAPABILITY = (8, 9)
NUM_BLOCKS = 2
"""The second block sees keys that the model under test has written itself."""


@dataclass(frozen=True)
class Trial:
    """What a model is tried with.  noise: block, draw -> latents [1, F, C, H, W]."""

    flow: FlowModel
    decoder: VideoVAE
    steps: DenoisingSteps
    text: PromptKV
    new_context: Callable[[], RollingContext]
    noise: Callable[[int, int], Tensor]

    def predict(self, led: list[list[Tensor]] | None = None) -> list[list[Tensor]]:
        """The clean latents that each step of each block points to.

        led: those of another model, which are gone on from in place of its own.
        """
        context = self.new_context()
        found: list[list[Tensor]] = []
        for block in range(NUM_BLOCKS):
            latents = self.noise(block, 0)
            context.begin(latents.shape[1])
            cleans: list[Tensor] = []
            for step, (timestep, sigma) in enumerate(
                zip(self.steps.timesteps, self.steps.sigmas, strict=True)
            ):
                if step > 0:
                    before = (led[block] if led else cleans)[step - 1]
                    latents = add_noise(before, self.noise(block, step), sigma)
                told = torch.full((1,), timestep, device=latents.device)
                cleans.append(
                    to_clean(latents, self.flow(latents, told, self.text, context), sigma)
                )
            write_block(self.flow, (led[block] if led else cleans)[-1], self.text, context)
            found.append(cleans)
        return found

    def pictures(self, cleans: list[list[Tensor]]) -> Tensor:
        """The last step of every block as pictures in 0..1, one clip."""
        pixels, _ = self.decoder.decode(torch.cat([block[-1] for block in cleans], dim=1))
        return pixels


@torch.inference_mode()
def change_within(
    trial: Trial,
    change: Callable[[], object],
    least_db: float,
    name: str,
    keys: Sequence[str] = ("eight_bit",),
) -> float:
    """Change a model and give the PSNR of its pictures to those of before, in decibels.

    change: changes the model for good.  name: of the configuration.  keys: those that ask for it.
    Raises ConfigError below least_db.
    """
    before = trial.predict()
    wanted = trial.pictures(before)
    change()
    reached = psnr_db(trial.pictures(trial.predict(before)), wanted)
    log.info(
        "event=eight_bit_quality changed=%s psnr_db=%.1f least_db=%.1f",
        "+".join(keys),
        reached,
        least_db,
    )
    if not reached >= least_db:
        told = f"{reached:.1f}" if math.isfinite(reached) else "no finite number of"
        asked = " and ".join(f"model.{key}" for key in keys)
        raise ConfigError(
            f"{name}: with {asked} the pictures are {told} dB from those in full precision, at "
            f"least {least_db:g} are wanted; leave {asked} out, or lower model.min_psnr_db"
        )
    return reached


def check_eight_bit(name: str, key: str, kind: Kind, device: torch.device) -> None:
    """Raises ConfigError when a GPU cannot compute in the kind of number that a key asks for."""
    if kind != "fp8" or device.type != "cuda":
        return
    capability = torch.cuda.get_device_capability(device)
    if capability < FP8_CAPABILITY:
        raise ConfigError(
            f"{name}: model.{key} is 'fp8', which needs compute capability 8.9; this GPU has "
            f"{capability[0]}.{capability[1]}; choose 'int8', or leave it out"
        )
