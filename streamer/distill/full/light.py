"""The light of the full edition: what each time of day and each weather does to colours.

Tables in the order of the vocabulary's TIMES and WEATHERS.
"""

from __future__ import annotations

from typing import Final

# day, dawn, sunset, night.  Sky from the top to the horizon.
SKY: Final = (
    ("#2f86e8", "#7cc0fa", "#d9f0fd"),
    ("#86a9ea", "#f2b9cc", "#ffe6bd"),
    ("#463a88", "#e6647e", "#ffbe66"),
    ("#080d30", "#16225e", "#3b4c90"),
)
LIGHT: Final = ((1.0, 1.0, 1.0), (1.0, 0.89, 0.87), (1.0, 0.75, 0.63), (0.36, 0.42, 0.74))
RIM: Final = ((0.22, 0.22, 0.20), (0.50, 0.36, 0.30), (0.75, 0.42, 0.20), (0.28, 0.36, 0.60))
"""The light on the edges of subjects."""
ORB: Final = ("#fff6c4", "#fff1d4", "#ffdf8a", "#f4f2dc")
ORB_PLACE: Final = (
    (0.17, 0.055, 0.30), (0.46, 0.070, 0.46), (0.47, 0.085, 0.60), (0.17, 0.060, 0.24),
)  # fmt: skip
"""Height of its middle, radius, strength of its glow."""
CLOUD_LIGHT: Final = ("#ffffff", "#fff0e6", "#ffc2a8", "#56629c")
CLOUD_SHADE: Final = ("#c9dcf3", "#d6b6d6", "#a8629a", "#252e62")
NIGHT: Final = (0.0, 0.0, 0.0, 1.0)

GREY, DIM, COVER, DECK, RAIN, SNOW, FOG, STORM, LEAVES, FIREFLIES, AURORA, RAINBOW = range(12)
WEATHER: Final = (
    #  grey   dim  cover  deck  rain  snow   fog storm leaves flies aurora rainbow
    (0.00, 1.00, 0.75, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00),  # clear
    (0.50, 0.88, 1.00, 1.00, 0.00, 0.00, 0.05, 0.00, 0.00, 0.00, 0.00, 0.00),  # cloudy
    (0.80, 0.74, 0.60, 0.70, 1.00, 0.00, 0.10, 0.00, 0.00, 0.00, 0.00, 0.00),  # rain
    (0.50, 0.95, 0.50, 0.40, 0.00, 1.00, 0.10, 0.00, 0.00, 0.00, 0.00, 0.00),  # snow
    (0.92, 0.97, 0.00, 0.00, 0.00, 0.00, 1.00, 0.00, 0.00, 0.00, 0.00, 0.00),  # fog
    (1.00, 0.50, 0.80, 1.00, 1.00, 0.00, 0.12, 1.00, 0.00, 0.00, 0.00, 0.00),  # storm
    (0.10, 1.00, 0.75, 0.00, 0.00, 0.00, 0.04, 0.00, 1.00, 0.00, 0.00, 0.00),  # leaves
    (0.00, 1.00, 0.30, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00, 1.00, 0.00, 0.00),  # fireflies
    (0.00, 1.00, 0.12, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00, 1.00, 0.00),  # aurora
    (0.12, 1.00, 0.85, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00, 1.00),  # rainbow
)
DULL: Final = ((0.56, 0.62, 0.70), (0.88, 0.86, 0.90), (0.33, 0.36, 0.46))
"""What cloud, snow and storm turn a daylight sky to."""
HAZE: Final = (0.24, 0.05, 0.0, 0.0)
FOG_HAZE: Final = (0.86, 0.66, 0.30, 0.10)
"""How much air, and fog, lies before each strip."""
LAYER_SNOW: Final = (0.65, 0.80, 1.15, 1.0)
SNOW_GLOW: Final = 0.35
"""Lying snow is brighter than the light alone would make it."""
