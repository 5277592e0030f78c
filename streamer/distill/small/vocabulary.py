"""The words of the small edition: 6 scenes, 3 times of day, 3 weathers, 20 subjects, 7 motions."""

from __future__ import annotations

from streamer.distill.edition import Edition
from streamer.distill.small.scenery import SCENES
from streamer.distill.small.sprites import MOTIONS, SUBJECTS

TIMES: tuple[str, ...] = ("day", "sunset", "night")
WEATHERS: tuple[str, ...] = ("clear", "rain", "snow")

_EXAMPLES: tuple[str, ...] = (
    "a red balloon over green hills",
    "a whale jumping in the ocean",
    "night falls over the city, a car drives to the left",
    "a penguin in the snow",
    "a sailboat at sunset on the sea",
    "a rocket flies through the mountains",
    "it starts to rain in the city",
    "a parrot circling above a dark forest at night",
    "an elephant walks through the desert",
    "a spinning robot on a snowy day",
    "sunset over the ocean",
    "a butterfly floats over a meadow",
)
# Nouns come with the article already in place.
_SUBJECT_WORDS: dict[str, tuple[str, ...]] = {
    "balloon": ("a balloon", "a red balloon"),
    "dog": ("a dog", "a puppy", "a small dog"),
    "cat": ("a cat", "a black cat", "a kitty"),
    "rabbit": ("a rabbit", "a white rabbit"),
    "horse": ("a horse", "a brown horse"),
    "elephant": ("an elephant", "a grey elephant"),
    "penguin": ("a penguin", "a little penguin"),
    "parrot": ("a parrot", "a colourful parrot", "a bird"),
    "butterfly": ("a butterfly", "an orange butterfly"),
    "fish": ("a fish", "a tropical fish"),
    "whale": ("a whale", "a blue whale"),
    "dinosaur": ("a dinosaur", "a green dinosaur"),
    "car": ("a car", "a red car"),
    "bus": ("a bus", "a yellow bus"),
    "sailboat": ("a sailboat", "a boat", "a sailing boat"),
    "rocket": ("a rocket", "a spaceship"),
    "airplane": ("an airplane", "a plane"),
    "ball": ("a ball", "a soccer ball", "a football"),
    "star": ("a star", "a yellow star", "a golden star"),
    "robot": ("a robot", "a toy robot"),
}
_SCENE_WORDS: dict[str, tuple[str, ...]] = {
    "meadow": ("in a meadow", "over green hills", "on the grass", "in the countryside",
               "in a green field", "over the meadow"),
    "mountains": ("in the mountains", "in front of mountains", "below tall peaks",
                  "over the mountains"),
    "desert": ("in the desert", "on the sand", "near the pyramids", "among sand dunes",
               "over the desert"),
    "ocean": ("in the ocean", "on the sea", "at sea", "over the ocean", "on the water"),
    "city": ("in the city", "in a city", "on a street", "downtown", "in front of buildings",
             "over the city"),
    "forest": ("in a forest", "in the woods", "among the trees", "near pine trees",
               "over the forest"),
}  # fmt: skip
_TIME_WORDS: dict[str, tuple[str, ...]] = {
    "day": ("by day", "during the day", "in daylight", "at noon", "on a bright day"),
    "sunset": ("at sunset", "at dusk", "in the evening", "as the sun goes down"),
    "night": ("at night", "under the moon", "in the dark", "under the stars", "by night"),
}
_WEATHER_WORDS: dict[str, tuple[str, ...]] = {
    "clear": ("in clear weather", "under a clear sky", "with no clouds", "in good weather"),
    "rain": ("in the rain", "while it rains", "on a rainy day", "in rainy weather", "raining"),
    "snow": ("in the snow", "while it snows", "in winter", "in snowy weather", "snowing"),
}
_MOTION_WORDS: dict[str, tuple[str, ...]] = {
    "rests": ("resting", "standing still", "rests", "stands", "not moving"),
    "moves left": ("moving left", "moves to the left", "going left", "goes to the left"),
    "moves right": ("moving right", "moves to the right", "going right", "goes to the right"),
    "bounces": ("bouncing", "bounces", "jumping", "jumps up and down"),
    "floats": ("floating", "floats", "hovering", "floats in the air"),
    "circles": ("circling", "flying in circles", "moves in circles", "going round and round"),
    "spins": ("spinning", "spins", "rotating", "turning around"),
}
# How a thing that goes somewhere is said to go there, when it has a word of its own.
_GAITS: dict[str, tuple[str, ...]] = {
    "walks": ("dog", "cat", "rabbit", "horse", "elephant", "penguin", "dinosaur", "robot"),
    "runs": ("dog", "cat", "rabbit", "horse", "elephant", "dinosaur"),
    "drives": ("car", "bus"),
    "flies": ("balloon", "parrot", "butterfly", "rocket", "airplane", "star"),
    "swims": ("fish", "whale"),
    "sails": ("sailboat",),
    "rolls": ("ball",),
}
_SHORT_SCENES: dict[str, tuple[str, ...]] = {
    "meadow": ("a meadow", "green hills"),
    "mountains": ("mountains", "the mountains"),
    "desert": ("a desert", "the desert"),
    "ocean": ("the ocean", "the sea"),
    "city": ("a city", "the city"),
    "forest": ("a forest", "the forest"),
}
_SHORT_TIMES: dict[str, tuple[str, ...]] = {
    "day": ("day", "daylight", "a bright day"),
    "sunset": ("sunset", "evening"),
    "night": ("night", "night falls", "it is night"),
}
_SHORT_WEATHERS: dict[str, tuple[str, ...]] = {
    "clear": ("clear sky", "the sky is clear"),
    "rain": ("rain", "it rains", "it is raining", "it starts to rain"),
    "snow": ("snow", "it snows", "it is snowing", "snow begins to fall"),
}
# Never used in training: how well do words generalise?
_HELD_OUT: dict[str, dict[str, tuple[str, ...]]] = {
    "subject": {
        "balloon": ("a crimson balloon",), "dog": ("a doggy", "a hound"), "cat": ("a kitten",),
        "rabbit": ("a bunny", "a hare"), "horse": ("a pony", "a stallion"),
        "parrot": ("a macaw",), "butterfly": ("a moth",), "fish": ("a goldfish",),
        "whale": ("an orca",), "dinosaur": ("a brontosaurus",), "car": ("an automobile",),
        "bus": ("a coach",), "sailboat": ("a yacht",), "rocket": ("a spacecraft",),
        "airplane": ("an aircraft", "a jet"), "robot": ("an android",),
    },
    "scene": {
        "meadow": ("on a lawn", "in a pasture"), "mountains": ("in the alps", "by the summit"),
        "desert": ("in the sahara", "in sandy wasteland"), "ocean": ("on the waves",),
        "city": ("in a town", "among skyscrapers"), "forest": ("in the woodland",),
    },
    "time": {
        "day": ("at midday",), "sunset": ("at twilight", "at nightfall"), "night": ("at midnight",),
    },
    "weather": {
        "clear": ("in fair weather",), "rain": ("in a downpour", "in a drizzle"),
        "snow": ("in a blizzard", "in a snowstorm"),
    },
    "motion": {
        "rests": ("motionless",), "moves left": ("heading left", "travels leftwards"),
        "moves right": ("heading right", "travels rightwards"), "bounces": ("hopping",),
        "floats": ("levitating",), "circles": ("orbiting",), "spins": ("twirling", "whirling"),
    },
}  # fmt: skip
# What a subject does, and where, when nothing is said about it: one answer each, so that a text
# settles its first picture.
_NATURAL: dict[str, tuple[str, ...]] = {
    "floats": ("balloon", "butterfly", "star"),
    "moves left": ("bus", "sailboat", "horse"),
    "moves right": ("car", "fish", "airplane", "rocket"),
    "bounces": ("ball", "whale", "rabbit"),
    "circles": ("parrot",),
    "rests": ("dog", "cat", "elephant", "penguin", "dinosaur", "robot"),
}
_HABITAT: dict[str, tuple[str, ...]] = {
    "ocean": ("fish", "whale", "sailboat"),
    "city": ("car", "bus", "robot"),
    "desert": ("elephant",),
    "forest": ("parrot", "dinosaur"),
    "mountains": ("airplane", "rocket"),
}
# Further ways to say a class, so that common words outside the captions land where they should:
# things the world does not have become the most alike thing it has.  No held-out synonym is here.
_THESAURUS: dict[str, dict[str, tuple[str, ...]]] = {
    "scene": {
        "meadow": ("in the park", "on a farm", "in the garden", "on the grassland", "on a prairie",
                   "among flowers", "in a valley", "on a hillside"),
        "mountains": ("on a cliff", "on a volcano", "on the rocks", "above a canyon", "on a ridge",
                      "in the highlands"),
        "desert": ("on the dunes", "in the wilderness", "beside a cactus", "at the oasis"),
        "ocean": ("at the beach", "by the lake", "on the river", "underwater", "near the coast",
                  "on an island", "at the harbor", "in the bay", "on stormy seas"),
        "city": ("in the village", "on the road", "by the tower", "on the highway", "at the market",
                 "in new york", "by the castle", "near the houses"),
        "forest": ("in the jungle", "in the rainforest", "under the trees", "in the grove"),
    },
    "time": {
        "day": ("in the morning", "in the afternoon", "daytime", "by daylight", "the sun is high"),
        "sunset": ("at dawn", "at sunrise", "at sundown", "golden hour", "the sun rises",
                   "the sun sets", "an orange sky"),
        "night": ("in the moonlight", "under a starry sky", "nighttime", "in darkness", "tonight",
                  "starlight", "the moon rises"),
    },
    "weather": {
        "clear": ("sunny", "sunshine", "a cloudless sky", "a blue sky", "no rain", "no snow",
                  "without rain", "without snow", "the rain stops", "the snow stops",
                  "it stops raining", "it stops snowing", "no more rain", "no more snow",
                  "the sky clears", "the sun comes out"),
        "rain": ("a storm", "stormy", "thunderstorm", "showers", "pouring rain", "wet weather",
                 "heavy rain", "cloudy", "foggy", "fog", "mist", "overcast"),
        "snow": ("snowfall", "snowflakes", "frost", "icy", "a wintry day", "heavy snow", "flurries",
                 "freezing cold", "snow flurries", "fresh snow", "a snow squall", "sleet",
                 "snow covered", "an arctic day"),
    },
    "subject": {
        "balloon": ("an airship", "a kite", "a blimp", "balloons", "a parachute", "a zeppelin",
                    "a lantern"),
        "dog": ("a wolf", "a fox", "a terrier", "dogs", "a puppy dog", "a poodle", "a beagle",
                "a spaniel", "a retriever", "a coyote", "a jackal", "a husky"),
        "cat": ("a tiger", "a lion", "a leopard", "cats", "a feline", "a tabby", "a panther",
                "a cheetah", "a lynx", "a jaguar", "a puma"),
        "rabbit": ("a mouse", "a squirrel", "rabbits", "a hedgehog", "a hamster", "a rat",
                   "a beaver", "an otter", "a rodent", "a koala", "a kangaroo", "a raccoon"),
        "horse": ("a donkey", "a zebra", "a unicorn", "a cow", "a camel", "horses", "a deer",
                  "a goat", "a mare", "a foal", "a mule", "a bull", "a sheep", "a moose",
                  "an antelope", "a pig"),
        "elephant": ("a mammoth", "a rhinoceros", "a hippo", "elephants", "a rhino", "a bison",
                     "a buffalo", "a bear", "a panda", "a gorilla"),
        "penguin": ("penguins", "a duck", "a chicken", "a goose", "a hen", "a turkey", "a rooster",
                    "an ostrich"),
        "parrot": ("an eagle", "a crow", "a seagull", "birds", "an owl", "a pigeon", "a parakeet",
                   "a swan", "a cockatoo", "a toucan", "a flamingo", "a peacock", "a hawk",
                   "a falcon", "a sparrow", "a hummingbird", "a pelican", "a stork", "a crane",
                   "a raven", "a robin", "a finch", "a canary", "a bat"),
        "butterfly": ("a bee", "a dragonfly", "a ladybug", "butterflies", "an insect", "a wasp",
                      "a beetle", "a mosquito", "a caterpillar", "a fairy"),
        "fish": ("a shark", "a salmon", "a trout", "fishes", "a turtle", "a crab", "a carp",
                 "a tuna", "a cod", "an eel", "an octopus", "a squid", "a lobster", "a jellyfish",
                 "a seahorse", "a frog"),
        "whale": ("a dolphin", "whales", "a seal", "a submarine", "a humpback", "a porpoise",
                  "a narwhal", "a killer whale", "a sperm whale", "a walrus", "a sea lion",
                  "a manatee"),
        "dinosaur": ("a dragon", "a lizard", "a crocodile", "dinosaurs", "a monster",
                     "a tyrannosaurus", "a giraffe", "a reptile", "an alligator", "an iguana",
                     "a snake", "a dino", "a stegosaurus"),
        "car": ("a truck", "a taxi", "cars", "a vehicle", "a jeep", "a motorcycle", "a van",
                "a sedan", "a limousine", "a cab", "a convertible", "a tractor", "a motorcar",
                "an ambulance", "a bicycle"),
        "bus": ("a train", "a tram", "buses", "a minibus", "a locomotive", "a school bus",
                "a trolley", "a double decker", "a stagecoach", "a carriage",
                "a wagon", "a trailer", "a tour bus"),
        "sailboat": ("a ship", "boats", "a ferry", "a canoe", "a schooner", "a pirate ship",
                     "a dinghy", "a raft", "a catamaran", "a vessel", "a steamer", "a kayak",
                     "a frigate", "a gondola"),
        "rocket": ("a ufo", "a flying saucer", "rockets", "a space shuttle", "a missile",
                   "a starship", "a satellite", "a space station", "a probe"),
        "airplane": ("a helicopter", "airplanes", "an airliner", "a glider", "a drone",
                     "a bomber", "a seaplane", "a biplane", "a fighter plane", "a chopper"),
        "ball": ("a basketball", "balls", "a sphere", "a globe", "an orb", "a marble",
                 "a tennis ball", "a bubble", "a wheel", "a pumpkin"),
        "star": ("stars", "a comet", "a diamond", "a shooting star", "a planet", "a meteor",
                 "a crystal", "a gem"),
        "robot": ("robots", "a machine", "a man", "a woman", "a boy", "a girl", "a knight",
                  "an astronaut", "a person", "people", "a wizard", "a child", "a cyborg",
                  "a droid", "an automaton", "a king", "a queen", "a princess", "a clown",
                  "a monkey", "an alien", "a snowman", "a soldier"),
        "none": ("no animals", "no people", "empty", "only the landscape", "nothing"),
    },
    "motion": {
        "rests": ("sitting", "sleeping", "waits", "sits", "stops", "stay still", "lies down",
                  "stationary", "idle", "asleep", "waiting"),
        "moves left": ("runs left", "walks left", "flies left", "to the left", "turn left",
                       "rushes left"),
        "moves right": ("runs right", "walks right", "flies right", "to the right", "turn right",
                        "rushes right"),
        "bounces": ("leaps", "leaping", "jump", "dancing", "dances", "skips", "bounce"),
        "floats": ("drifts", "drifting", "gliding", "soars", "hovers", "float"),
        "circles": ("circles", "runs in circles", "around and around", "circle around"),
        "spins": ("rotates", "spin", "swirling", "rolls over", "tumbling", "revolves"),
    },
}  # fmt: skip


def _by_subject(table: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """A table of subjects for each class, turned round."""
    return {
        subject: found
        for subject in SUBJECTS
        if (found := tuple(name for name, who in table.items() if subject in who))
    }


SMALL = Edition(
    name="small",
    attributes={
        "scene": SCENES,
        "time": TIMES,
        "weather": WEATHERS,
        "subject": SUBJECTS,
        "motion": MOTIONS,
    },
    words={
        "scene": _SCENE_WORDS,
        "time": _TIME_WORDS,
        "weather": _WEATHER_WORDS,
        "subject": _SUBJECT_WORDS,
        "motion": _MOTION_WORDS,
    },
    openings={"scene": _SHORT_SCENES, "time": _SHORT_TIMES, "weather": _SHORT_WEATHERS},
    held_out=_HELD_OUT,
    thesaurus=_THESAURUS,
    no_subject=("an empty landscape", "a quiet view", "nobody", "nothing but scenery"),
    natural_motions=_by_subject(_NATURAL),
    natural_scenes=_by_subject(_HABITAT),
    examples=_EXAMPLES,
    changes=(
        ("a red balloon over green hills", "night falls, snow"),
        ("a sailboat at sunset on the sea", "a car drives through the city in the rain"),
        ("a rabbit in a meadow", "a penguin in the mountains in winter"),
        ("an elephant walks through the desert", "a whale jumping in the ocean at night"),
    ),
    text_length=8,
    text_width=128,
    gaits=_by_subject(_GAITS),
)
