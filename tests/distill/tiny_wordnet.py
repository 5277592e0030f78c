"""A WordNet of a dozen synsets, in the files of the real one."""

from pathlib import Path

LICENCE = "  1 This software and database is being provided to you, the LICENSEE\n"
# As in wndb(5): offset file type words pointers | gloss; "@" points at what a thing is a kind of.
SYNSETS = """
00000100 05 n 01 animal 0 000 | a living organism
00000200 05 n 01 bird 0 001 @ 00000100 n 0000 | warm-blooded egg-laying vertebrates; "birds fly"
00000300 05 n 01 parrot 0 002 @ 00000200 n 0000 ~ 00000400 n 0000 | usually brightly colored
00000400 05 n 01 macaw 0 001 @ 00000300 n 0000 | long-tailed parrot
00000500 06 n 01 vehicle 0 000 | a conveyance
00000600 06 n 02 bus 0 coach 2 001 @ 00000500 n 0000 | a vehicle carrying many passengers
00000700 18 n 02 coach 0 manager 1 000 | someone in charge of training
00000800 06 n 01 rest 0 000 | a support
00000900 09 n 01 rest 0 000 | something left after other parts have been taken away
00001000 05 n 01 Canis 0 001 @ 00000100 n 0000 | type genus of the Canidae
00001100 06 n 03 fire_engine 0 fire_truck 0 engine 1 001 @ 00000500 n 0000 | a truck
00001200 05 n 01 mouse 0 001 @ 00000100 n 0000 | a small rodent
"""
ENTRIES = """
animal n 1 1 @ 1 1 00000100
bird n 1 1 @ 1 1 00000200
parrot n 1 1 @ 1 1 00000300
macaw n 1 1 @ 1 0 00000400
vehicle n 1 1 @ 1 1 00000500
bus n 1 1 @ 1 1 00000600
coach n 2 1 @ 2 1 00000700 00000600
manager n 1 1 @ 1 0 00000700
rest n 2 1 @ 2 2 00000900 00000800
canis n 1 1 @ 1 0 00001000
fire_engine n 1 1 @ 1 0 00001100
engine n 1 1 @ 1 0 00001100
mouse n 1 1 @ 1 0 00001200
"""
USES = """
coach%1:18:00:: 1 1
rest%1:09:00:: 1 30
rest%1:06:00:: 2 2
bird%1:05:00:: 1 25
parrot%2:32:00:: 1 1
"""


def write_wordnet(folder: Path) -> Path:
    """Write it into a folder; returns the folder."""
    files = {"data.noun": SYNSETS, "index.noun": ENTRIES, "cntlist.rev": USES}
    for name, text in files.items():
        (folder / name).write_text(LICENCE + text.lstrip())
    (folder / "noun.exc").write_text("mice mouse\n")
    return folder
