"""The words of the full edition.

Sixteen places, four times of day, ten weathers, the cast of cast.json, fifteen motions with a
heading, up to three of a kind or a companion, six cameras.
"""

from __future__ import annotations

from typing import Final

from streamer.distill.edition import ABSENT, Edition
from streamer.distill.full.cast import Member, load_members
from streamer.distill.phrases import with_article

SCENES: Final = (
    "meadow", "farm", "mountains", "desert", "ocean", "underwater", "beach", "lake",
    "city", "village", "forest", "jungle", "snowfield", "savanna", "space", "moon",
)  # fmt: skip
TIMES: Final = ("day", "dawn", "sunset", "night")
WEATHERS: Final = (
    "clear", "cloudy", "rain", "snow", "fog", "storm", "leaves", "fireflies", "aurora", "rainbow",
)  # fmt: skip
MOTIONS: Final = (
    "rests", "walks", "runs", "flies", "floats", "swims", "bounces", "jumps", "rolls", "spins",
    "circles", "zigzags", "chases", "appears", "leaves",
)  # fmt: skip
HEADINGS: Final = ("left", "right", "towards", "away")
NUMBERS: Final = ("one", "two", "three")
CAMERAS: Final = ("still", "pans left", "pans right", "rises", "zooms in", "zooms out")
HEADED: Final = frozenset(
    ("walks", "runs", "flies", "swims", "jumps", "rolls", "zigzags", "chases", "leaves")
)

_SCENE_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "meadow": ("in a meadow", "over green hills", "on the grass", "in the countryside",
               "in a green field", "among wild flowers"),
    "farm": ("on a farm", "on the farmland", "in a wheat field", "near a barn", "among the crops"),
    "mountains": ("in the mountains", "in front of mountains", "below tall peaks",
                  "among snowy peaks"),
    "desert": ("in the desert", "on the sand dunes", "near the pyramids", "among cacti",
               "over the desert"),
    "ocean": ("on the ocean", "on the sea", "at sea", "on the waves", "on the open water"),
    "underwater": ("under water", "underwater", "below the sea", "at a coral reef",
                   "at the bottom of the sea", "deep in the ocean"),
    "beach": ("on the beach", "on a tropical beach", "at the seaside", "under palm trees",
              "on the shore"),
    "lake": ("on a lake", "on a calm lake", "at the lake", "on a pond"),
    "city": ("in the city", "in a city", "on a street", "downtown", "in front of tall buildings"),
    "village": ("in a village", "in front of small houses", "in a little village",
                "among cottages"),
    "forest": ("in a forest", "in the woods", "among the trees", "near fir trees"),
    "jungle": ("in the jungle", "in the rainforest", "in a tropical forest", "among jungle plants"),
    "snowfield": ("on a snowfield", "in the arctic", "on the ice", "in a white snowy land",
                  "at the north pole"),
    "savanna": ("in the savanna", "on safari", "in dry grassland", "on the african plain"),
    "space": ("in space", "in outer space", "among the planets", "among the stars"),
    "moon": ("on the moon", "on the lunar surface", "among craters", "on a grey planet"),
}  # fmt: skip
_TIME_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "day": ("by day", "during the day", "in daylight", "at noon", "on a bright day"),
    "dawn": ("at dawn", "at sunrise", "early in the morning", "as the sun rises"),
    "sunset": ("at sunset", "at dusk", "in the evening", "as the sun goes down"),
    "night": ("at night", "in the moonlight", "in the dark", "under the stars", "by night"),
}
_WEATHER_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "clear": ("in clear weather", "under a clear sky", "with no clouds", "in good weather"),
    "cloudy": ("under clouds", "on a cloudy day", "under a cloudy sky", "in cloudy weather"),
    "rain": ("in the rain", "while it rains", "on a rainy day", "in rainy weather", "raining"),
    "snow": ("in the falling snow", "while it snows", "in snowy weather", "snowing"),
    "fog": ("in the fog", "in thick fog", "on a foggy day", "in the mist"),
    "storm": ("in a storm", "in a thunderstorm", "in stormy weather", "with lightning"),
    "leaves": ("among falling leaves", "in autumn", "while leaves fall", "with leaves in the air"),
    "fireflies": ("with fireflies", "among fireflies", "among glowing fireflies"),
    "aurora": ("under northern lights", "under the aurora", "with an aurora in the sky"),
    "rainbow": ("under a rainbow", "with a rainbow", "with a rainbow in the sky"),
}
_MOTION_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "rests": ("resting", "standing still", "rests", "stays", "not moving"),
    "walks": ("walking", "walks", "moving slowly", "goes", "going"),
    "runs": ("running", "runs", "racing", "moving fast", "rushing"),
    "flies": ("flying", "flies", "flying through the air", "soars"),
    "floats": ("floating", "floats", "hovering", "floats in the air"),
    "swims": ("swimming", "swims", "moves through the water"),
    "bounces": ("bouncing", "bounces", "bouncing up and down", "hops on the spot"),
    "jumps": ("jumping", "jumps", "leaping", "leaps"),
    "rolls": ("rolling", "rolls", "rolling along", "tumbles"),
    "spins": ("spinning", "spins", "rotating", "turning around"),
    "circles": ("circling", "moves in circles", "going round and round", "goes in circles"),
    "zigzags": ("zigzagging", "moves in zigzags", "zigzags", "going from side to side"),
    "chases": ("chasing", "chases"),
    "appears": ("appearing", "appears", "appears and disappears", "popping up"),
    "leaves": ("leaving", "leaves", "goes out of the picture", "leaves and comes back"),
}
_HEADING_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "left": ("left", "to the left", "towards the left"),
    "right": ("right", "to the right", "towards the right"),
    "towards": ("towards us", "closer", "towards the camera", "forward"),
    "away": ("away", "away from us", "into the distance", "far away"),
}
_NUMBER_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "one": ("one",),
    "two": ("two", "a pair of", "a couple of"),
    "three": ("three", "a group of", "some"),
}
_CAMERA_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "still": ("the camera stands still", "still camera", "a fixed view"),
    "pans left": ("the camera pans left", "panning left", "the camera moves to the left"),
    "pans right": ("the camera pans right", "panning right", "the camera moves to the right"),
    "rises": ("the camera rises", "the camera goes up", "rising camera"),
    "zooms in": ("slowly zooming in", "the camera zooms in", "zoom in"),
    "zooms out": ("slowly zooming out", "the camera zooms out", "zoom out"),
}
_OPENINGS: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "scene": {
        "meadow": ("a meadow", "green hills"), "farm": ("a farm", "a wheat field"),
        "mountains": ("mountains", "the mountains"), "desert": ("a desert", "the desert"),
        "ocean": ("the ocean", "the sea"), "underwater": ("an underwater world", "a coral reef"),
        "beach": ("a beach", "a tropical beach"), "lake": ("a lake", "a calm lake"),
        "city": ("a city", "the city"), "village": ("a village", "a little village"),
        "forest": ("a forest", "the forest"), "jungle": ("a jungle", "the jungle"),
        "snowfield": ("a snowfield", "the arctic"), "savanna": ("a savanna", "the savanna"),
        "space": ("outer space", "space"), "moon": ("the surface of the moon", "lunar craters"),
    },
    "time": {
        "day": ("day", "daylight", "a bright day"),
        "dawn": ("dawn", "sunrise", "an early morning"),
        "sunset": ("sunset", "evening"),
        "night": ("night", "night falls", "it is night"),
    },
    "weather": {
        "clear": ("clear sky", "the sky is clear"), "cloudy": ("clouds", "a cloudy sky"),
        "rain": ("rain", "it rains", "it is raining", "it starts to rain"),
        "snow": ("snow falls", "it snows", "it is snowing", "snow begins to fall"),
        "fog": ("fog", "mist", "fog comes up"), "storm": ("a storm", "a thunderstorm"),
        "leaves": ("falling leaves", "leaves fall"),
        "fireflies": ("fireflies", "glowing fireflies"),
        "aurora": ("northern lights", "an aurora"), "rainbow": ("a rainbow", "a rainbow appears"),
    },
}  # fmt: skip
_HELD_OUT: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "scene": {
        "meadow": ("on a lawn", "in a pasture"), "farm": ("on the ranch",),
        "mountains": ("in the alps", "by the summit"), "desert": ("in the sahara",),
        "ocean": ("on the atlantic",), "underwater": ("on the seabed",),
        "beach": ("by the coast",), "lake": ("on a lagoon",),
        "city": ("among skyscrapers", "in the metropolis"), "village": ("in a hamlet",),
        "forest": ("in the woodland",), "jungle": ("in the amazon",),
        "snowfield": ("in antarctica", "on the glacier"), "savanna": ("in the serengeti",),
        "space": ("in the galaxy", "in the cosmos"),
    },
    "time": {
        "day": ("at midday",), "dawn": ("at daybreak",), "sunset": ("at twilight", "at nightfall"),
        "night": ("at midnight",),
    },
    "weather": {
        "clear": ("in fair weather",), "cloudy": ("on an overcast day",),
        "rain": ("in a downpour", "in a drizzle"), "snow": ("in a blizzard", "in a flurry"),
        "fog": ("in the haze",), "storm": ("in a tempest",), "leaves": ("amid drifting foliage",),
        "aurora": ("under polar lights",),
    },
    "motion": {
        "rests": ("motionless",), "walks": ("wandering", "trudges"), "runs": ("sprinting",),
        "flies": ("gliding",), "floats": ("levitating",), "swims": ("paddling",),
        "bounces": ("bobbing",), "jumps": ("hopping",), "spins": ("twirling", "whirling"),
        "circles": ("orbiting",), "zigzags": ("swerving",), "appears": ("emerging",),
        "leaves": ("departing",),
    },
    "heading": {"left": ("leftwards",), "right": ("rightwards",)},
    "number": {"two": ("twin",)},
    "camera": {"pans left": ("the view drifts left",), "pans right": ("the view drifts right",)},
}  # fmt: skip
_THESAURUS: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "scene": {
        "meadow": ("in the park", "in the garden", "on a prairie", "in a valley", "on a hillside"),
        "farm": ("on the plantation", "in the cornfield", "in the vineyard", "by the windmill"),
        "mountains": ("on a cliff", "on the rocks", "above a canyon", "on a ridge",
                      "in the highlands"),
        "desert": ("in the wasteland", "at the oasis", "in the sand"),
        "ocean": ("on stormy seas", "in the bay", "at the harbor", "off the shore"),
        "underwater": ("in the depths", "in an aquarium", "among corals", "beneath the surface"),
        "beach": ("on an island", "on the sand by the sea", "at the waterfront"),
        "lake": ("on the river", "by the water", "at the fountain", "in a swamp"),
        "city": ("on the road", "on the highway", "in new york", "at the market", "in the streets"),
        "village": ("in a small town", "in the suburbs", "by the castle", "near the church"),
        "forest": ("in the grove", "under the trees", "in the thicket"),
        "jungle": ("in the tropics", "in the bush", "among ferns"),
        "snowfield": ("on the tundra", "in siberia", "in a winter landscape", "on the iceberg"),
        "savanna": ("in africa", "on the steppe", "in the outback"),
        "space": ("in the universe", "in orbit", "in the void", "in the milky way"),
        "moon": ("on mars", "on an asteroid", "on an alien planet"),
    },
    "time": {
        "day": ("in the afternoon", "daytime", "by daylight", "the sun is high"),
        "dawn": ("in the morning", "first light", "the sun comes up"),
        "sunset": ("at sundown", "golden hour", "the sun sets", "an orange sky"),
        "night": ("under the moon", "under a starry sky", "nighttime", "in darkness", "tonight"),
    },
    "weather": {
        "clear": ("sunny", "sunshine", "a cloudless sky", "a blue sky", "no rain", "no snow",
                  "the rain stops", "the snow stops", "the sky clears", "the sun comes out"),
        "cloudy": ("grey sky", "clouds gather", "dull weather"),
        "rain": ("showers", "pouring rain", "wet weather", "heavy rain"),
        "snow": ("snowfall", "snowflakes", "a wintry day", "heavy snow", "in winter"),
        "fog": ("foggy", "misty", "low clouds", "smoke"),
        "storm": ("lightning strikes", "thunder", "a hurricane", "stormy"),
        "leaves": ("autumn leaves", "in the fall", "leaves in the wind"),
        "fireflies": ("glow worms", "little lights in the air", "magic lights"),
        "aurora": ("aurora borealis", "green lights in the sky"),
        "rainbow": ("a colourful arc", "after the rain"),
    },
    "motion": {
        "rests": ("sitting", "sleeping", "waits", "stops", "stay still", "lies down"),
        "walks": ("strolls", "marching", "creeps", "crawls", "moves"),
        "runs": ("dashes", "gallops", "speeds", "hurries"),
        "flies": ("takes off", "in flight", "swoops"),
        "floats": ("drifts", "drifting", "hovers", "float"),
        "swims": ("dives", "diving", "swim"),
        "bounces": ("dancing", "dances", "bounce", "wiggles"),
        "jumps": ("jump", "skips", "springs"),
        "rolls": ("roll", "rolls over", "tumbling"),
        "spins": ("rotates", "spin", "swirling", "revolves"),
        "circles": ("circles", "runs in circles", "around and around"),
        "zigzags": ("weaves", "slaloms", "darting about"),
        "chases": ("pursuing", "hunts", "runs after somebody"),
        "appears": ("shows up", "arrives", "comes into view", "vanishes"),
        "leaves": ("goes away", "exits", "walks off"),
    },
    "heading": {
        "left": ("turn left", "leftward"), "right": ("turn right", "rightward"),
        "towards": ("approaches", "comes near"), "away": ("backwards", "off into the distance"),
    },
    "subject": {
        "robot": ("a man", "a woman", "a knight", "an astronaut", "a person", "a machine"),
        "ghost": ("a monster", "a spirit of the night"), "alien": ("a martian",),
        "teddy bear": ("a child", "a baby", "a doll"), "wolf": ("a coyote", "a husky"),
        ABSENT: ("no animals", "no people", "empty", "only the landscape", "nothing"),
    },
}  # fmt: skip

# What one expects of each kind of subject: motions, scenes, and its own verbs by motion.
_LAND: Final = ("meadow", "farm", "forest", "village", "mountains", "savanna", "jungle")
_ANYWHERE: Final = (
    "meadow", "village", "city", "beach", "farm", "mountains", "forest", "desert", "snowfield",
)  # fmt: skip
_SEA: Final = ("ocean", "lake", "ocean")
_HABITS: Final[dict[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "walker": (("rests", "walks", "runs", "jumps"), _LAND),
    "hopper": (("rests", "jumps", "bounces"), _LAND),
    "crawler": (("rests", "walks"), ("meadow", "forest", "jungle", "beach", "desert")),
    "bird": (("flies", "rests", "circles"), ("meadow", "forest", "mountains", "farm", "village")),
    "duck": (("swims", "rests", "walks"), ("lake", "lake", "farm")),
    "insect": (("flies", "floats", "circles", "zigzags"), ("meadow", "jungle", "farm", "forest")),
    "fish": (("swims", "swims", "jumps", "rests"), ("underwater", "underwater", "ocean")),
    "dragon": (("flies", "rests", "circles"), ("mountains", "village", "desert")),
    "car": (("walks", "runs", "rests"), ("city", "village", "farm", "desert")),
    "boat": (("rests", "walks", "runs"), _SEA),
    "aircraft": (("flies", "circles", "rests"), ("mountains", "city", "ocean", "desert", "space")),
    "drifter": (("floats", "flies", "bounces"), ("meadow", "city", "beach", "mountains")),
    "sky": (("floats", "spins", "rests"), ("space", "moon", "mountains", "meadow")),
    "ball": (("bounces", "rolls", "jumps"), ("meadow", "beach", "city", "village")),
    "plant": (("rests", "bounces"), ("meadow", "village", "farm", "forest")),
    "food": (("rests", "bounces", "spins", "rolls"), _ANYWHERE),
    "thing": (("rests", "bounces", "spins", "jumps"), _ANYWHERE),
    "building": (("rests", "appears"), ("mountains", "meadow", "village", "snowfield")),
}
_HOMES: Final[dict[str, tuple[str, ...]]] = {
    "lion": ("savanna",), "giraffe": ("savanna",), "zebra": ("savanna",), "camel": ("desert",),
    "elephant": ("savanna", "jungle"), "rhinoceros": ("savanna",), "hippo": ("lake", "savanna"),
    "leopard": ("savanna", "jungle"), "tiger": ("jungle",), "gorilla": ("jungle",),
    "orangutan": ("jungle",), "monkey": ("jungle",), "sloth": ("jungle",), "parrot": ("jungle",),
    "polar bear": ("snowfield",), "penguin": ("snowfield",), "seal": ("snowfield", "beach"),
    "mammoth": ("snowfield",), "snowman": ("snowfield", "village"), "sled": ("snowfield",),
    "cow": ("farm",), "pig": ("farm",), "chicken": ("farm",), "rooster": ("farm",),
    "sheep": ("farm", "meadow"), "horse": ("farm", "meadow"), "tractor": ("farm",),
    "crab": ("beach", "underwater"), "lobster": ("underwater",), "seashell": ("beach",),
    "coral": ("underwater",), "oyster": ("underwater",), "turtle": ("beach", "underwater"),
    "scorpion": ("desert",), "cactus": ("desert",), "whale": ("ocean", "underwater"),
    "beach umbrella": ("beach",), "lotus": ("lake",), "rocket": ("space", "moon"),
    "satellite": ("space",), "flying saucer": ("space", "moon", "city"), "alien": ("moon", "space"),
    "planet": ("space",), "comet": ("space",), "globe": ("space",), "flamingo": ("lake",),
    "crocodile": ("lake", "jungle"), "frog": ("lake", "jungle"), "otter": ("lake",),
}  # fmt: skip
_VERBS: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "walks": {
        "walker": ("walks", "walking", "strolls", "strolling"),
        "crawler": ("crawls", "crawling"), "hopper": ("walks", "walking"),
        "car": ("drives", "driving", "drives slowly"), "boat": ("sails", "sailing"),
        "thing": ("waddles", "moving along"), "food": ("waddles", "moving along"),
    },
    "runs": {
        "walker": ("runs", "running", "gallops", "runs fast"), "hopper": ("runs", "running"),
        "car": ("speeds", "speeding", "drives fast"), "boat": ("speeds", "speeding"),
    },
    "jumps": {"hopper": ("hops along", "jumps", "jumping"), "fish": ("jumps", "leaping")},
    "flies": {"bird": ("flies", "flying"), "drifter": ("drifts", "drifting"),
              "insect": ("flutters", "fluttering", "flies")},
}  # fmt: skip
_PLURAL_NAMES: Final = frozenset(
    (
        "bubbles", "glasses", "sunglasses", "jeans", "socks", "gloves", "pancakes", "blueberries",
        "cherries", "grapes", "headphones", "maracas", "scissors", "bread", "garlic", "corn",
        "popcorn", "butter", "cheese", "bacon", "soap", "spaghetti", "broccoli", "lettuce", "stew",
        "salad", "sushi", "pudding", "coral", "dice", "fries", "noodle soup", "bubble tea",
        "ice cream", "shaved ice", "milk", "coffee", "beer", "pasta", "ramen", "dynamite", "yarn",
        "luggage", "stockings", "spectacles", "chips", "trousers", "lavender", "espresso", "maize",
    )
)  # fmt: skip
"""Nouns without an article."""


def build_vocabulary() -> Edition:
    """The full edition.  Raises OSError when cast.json is missing."""
    members = load_members()
    names = tuple(member.name for member in members)
    subjects = {member.name: _wordings((member.name, *member.synonyms)) for member in members}
    return Edition(
        name="full",
        attributes={
            "scene": SCENES,
            "time": TIMES,
            "weather": WEATHERS,
            "subject": (*names, ABSENT),
            "motion": MOTIONS,
            "heading": HEADINGS,
            "number": NUMBERS,
            "companion": (ABSENT, *names),
            "camera": CAMERAS,
        },
        words={
            "scene": _SCENE_WORDS,
            "time": _TIME_WORDS,
            "weather": _WEATHER_WORDS,
            "subject": subjects,
            "motion": _MOTION_WORDS,
            "heading": _HEADING_WORDS,
            "number": _NUMBER_WORDS,
            "companion": {n: tuple(f"with {said}" for said in w) for n, w in subjects.items()},
            "camera": _CAMERA_WORDS,
        },
        openings=_OPENINGS,
        held_out={
            **_HELD_OUT,
            "subject": {m.name: _wordings(m.rare) for m in members if m.rare},
            "companion": {},
        },
        thesaurus=_THESAURUS,
        no_subject=("an empty landscape", "a quiet view", "nobody", "nothing but scenery"),
        natural_motions={member.name: _HABITS[member.kind][0] for member in members},
        natural_scenes={m.name: _HOMES.get(m.name, _HABITS[m.kind][1]) for m in members},
        examples=(
            "a red balloon over green hills at dawn",
            "a whale swimming under water, slowly zooming in",
            "night falls over the city in the rain, a yellow taxi drives to the left",
            "three penguins on the ice under northern lights",
            "a fox chases a rabbit through falling leaves in a forest",
            "a sailboat on a calm lake at sunset",
            "a rocket flies away from us in space",
            "an owl circling above a village in the moonlight, the camera rises",
            "an elephant and a giraffe in the savanna at sunrise",
            "a spinning robot on the moon",
            "a dragon flies over snowy peaks in a storm",
            "fireflies in the jungle at night, a tiger walks towards us",
            "a volleyball bouncing under palm trees",
            "a steam train in thick fog on a farm",
        ),
        changes=(
            ("a red balloon over green hills", "night falls, snow"),
            ("a sailboat on the sea at sunset", "a shark under water"),
            ("a rabbit in a meadow", "a polar bear on the ice under northern lights"),
            ("a car drives through the city", "the car drives through the desert in a storm"),
            ("a rocket in space", "a rocket on the moon, the camera rises"),
        ),
        text_length=12,
        text_width=256,
        verbs=_spread_verbs(members),
        headed=HEADED,
        calm_scenes=frozenset(("underwater", "space", "moon")),
        dark_scenes=frozenset(("space",)),
        night_weathers=frozenset(("fireflies", "aurora")),
        favourites=tuple(m.name for m in members if m.kind not in ("food", "thing", "plant")),
        naturalness=0.6,
    )


def is_plural(noun: str) -> bool:
    """Whether a noun of the cast stands without an article: "socks", "bread"."""
    return noun in _PLURAL_NAMES or noun.split()[-1] in _PLURAL_NAMES


def _wordings(nouns: tuple[str, ...]) -> tuple[str, ...]:
    """Nouns with their article."""
    return tuple(with_article(noun, is_plural(noun)) for noun in nouns)


def _spread_verbs(members: tuple[Member, ...]) -> dict[str, dict[str, tuple[str, ...]]]:
    """The verbs of each kind, for each of its members."""
    return {
        motion: {m.name: by_kind[m.kind] for m in members if m.kind in by_kind}
        for motion, by_kind in _VERBS.items()
    }
