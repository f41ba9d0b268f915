"""The grammar of the demo's stories: who owns what at the beginning, who gets it back at the end.

A story begins with its hero, who has a thing; a friend with a name and a thing of their own may stand beside. The
hero's thing is lost, searched for and found; the last lines say whose it is. Nothing between tells a name again, so
the end can only be known from the beginning, and the friend's name must be passed over. Everything is drawn from one
`random.Random`.

Names are made of syllables (thousands of them, so that the tokenizer cannot learn them whole); one in four is
"wild", any letters that can be spoken. A tenth of all (name, object) pairs is held out by a hash: training
never sees one, evaluation sees nothing else.
"""

import random
import zlib
from dataclasses import dataclass

WILD = 0.25  # part of the names that are no product of the syllables below
_FRIEND = 0.6
_LONG = 0.1  # part of the stories with a long search

_HEADS = "Mi Ta Lo Be Ka Ru Fe No Sa Du Vi Jo Pe Ga Zo Hel Mar Tor Bran El Os Lin Wen Ari".split()
_MIDDLES = "ra li mo ne do va si be lu ka ri ta".split()
_TAILS = "bel lin ra mon da wyn go sa rik ny tha lo mir dan ke vo la nus".split()
_ONSETS = "b c ch d f fr g h j k l m n p qu r s sh st t th tr v w y z".split()
_VOWELS = "a e i o u ai ee ie oa ou".split()
_CODAS = "n r l s t ck m nd th x".split()

_TRADES = "miller baker weaver fisher gardener carpenter shepherd painter sailor smith tailor potter".split()
_PLACES = (
    *("by the sea", "near the old mill", "behind the hills", "at the edge of the forest"),
    *("beside a quiet lake", "on a small island", "under the mountain", "in a green valley"),
)
_ADJECTIVES = "silver golden red blue green wooden tiny heavy broken shiny copper painted".split()
_THINGS = (
    *"key lamp drum boat bell ring kite clock spoon flute coat basket mirror cup crown hammer".split(),
    *"ladder needle whistle candle bucket lantern anchor button pot feather compass wheel".split(),
)
_ANIMALS = "fox crow goat mouse hedgehog owl dog cat duck frog badger hare".split()
_SPOTS = (
    *("under the bridge", "behind the mill", "in the old well", "in the tall grass"),
    *("on the roof", "between two stones", "inside a hollow tree", "beneath the stairs"),
    *("at the bottom of the pond", "in a nest of straw", "near the market", "by the river"),
)
_DAYS = "morning evening night afternoon".split()
_WEATHER = (
    *("It rained all day.", "The sun was warm.", "Snow lay on the roofs.", "A cold wind blew."),
    *("The sky was grey.", "Fog hung over the fields.", "The moon was bright."),
)


@dataclass(frozen=True)
class Story:
    """One story, cut before the name that its end must copy."""

    opening: str
    """Ends without a space; what follows is a space and `name`."""
    name: str
    closing: str
    """From the mark after the name on."""
    object: str
    """What was lost; `name` owned it from the beginning."""
    owners: tuple[tuple[str, str], ...]
    """(name, object) of the hero, and of the friend if there is one."""

    @property
    def text(self) -> str:
        return f"{self.opening} {self.name}{self.closing}"


def is_held_out(name: str, object: str) -> bool:
    """True for a tenth of all pairs, the same on every machine."""
    return zlib.crc32(f"{name}|{object}".encode()) % 10 == 0


def make_name(rng: random.Random, wild: float = WILD) -> str:
    """A name such as Marilin; with probability `wild` any letters that can be spoken, such as Thoadeck."""
    if rng.random() >= wild:
        middle = rng.choice(_MIDDLES) if rng.random() < 0.3 else ""
        return rng.choice(_HEADS) + middle + rng.choice(_TAILS)
    syllables = [rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(rng.choice((1, 2, 2, 3)))]
    if len(syllables) > 1 and rng.random() < 0.2:
        syllables[0] = rng.choice("aeiou")
    if len(syllables) == 1 or rng.random() < 0.5:
        syllables.append(rng.choice(_CODAS))
    return "".join(syllables).capitalize()


def make_story(
    rng: random.Random,
    *,
    held_out: bool = False,
    hero: str | None = None,
    wild: float = WILD,
    long: bool | None = None,
) -> Story:
    """A new story. `held_out`: all its (name, object) pairs are held out, or none is. `hero`: the name of
    the hero. `long`: a search of several hundred tokens; None draws."""
    owners = [_owner(rng, held_out, wild, hero)]
    if rng.random() < _FRIEND:
        second = owners[0]
        while second[0] == owners[0][0] or second[1] == owners[0][1]:
            second = _owner(rng, held_out, wild, None)
        owners.append(second)
    name, object = owners[0]
    long = rng.random() < _LONG if long is None else long
    n_events = rng.randint(12, 26) if long else rng.choice((1, 2, 2, 3, 4))
    finder = rng.choice(_ANIMALS)
    parts = [_beginning(rng, owners), _loss(rng, object)]
    parts += [_event(rng, object) for _ in range(n_events)]
    parts += [_find(rng, object, finder), _question(rng, object, finder)]
    return Story(" ".join(parts), name, _closing(rng, name, object), object, tuple(owners))


def a(noun: str) -> str:
    """The noun with its article."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _owner(rng: random.Random, held_out: bool, wild: float, name: str | None) -> tuple[str, str]:
    while True:
        pair = (
            name or make_name(rng, wild),
            f"{rng.choice(_ADJECTIVES)} {rng.choice(_THINGS)}",
        )
        if is_held_out(*pair) == held_out:
            return pair


def _beginning(rng: random.Random, owners: list[tuple[str, str]]) -> str:
    name, object = owners[0]
    trade, place = rng.choice(_TRADES), rng.choice(_PLACES)
    lines = [
        rng.choice(
            (
                f"Once upon a time there was {a(trade)} named {name} who lived {place}.",
                f"Once upon a time, {place}, there lived {a(trade)} named {name}.",
                f"Long ago {a(trade)} called {name} lived {place}.",
                f"There was once a young {trade} {place}, and the name of the {trade} was {name}.",
            )
        ),
        rng.choice(
            (
                f"{name} had {a(object)}.",
                f"{name} owned {a(object)} and loved it.",
                f"The dearest thing that {name} had was {a(object)}.",
                f"From an old aunt {name} got {a(object)}.",
            )
        ),
    ]
    if len(owners) == 2:
        name, object = owners[1]
        lines.append(
            rng.choice(
                (
                    f"Next door lived {name}, who had {a(object)}.",
                    f"{name}, a good friend, had {a(object)}.",
                    f"A friend named {name} owned {a(object)}.",
                    f"{a(object).capitalize()} belonged to {name}, who lived {rng.choice(_PLACES)}.",
                )
            )
        )
    return " ".join(lines)


def _loss(rng: random.Random, object: str) -> str:
    day, animal = rng.choice(_DAYS), rng.choice(_ANIMALS)
    return rng.choice(
        (
            f"One {day} the {object} was gone.",
            f"One {day} {a(animal)} took the {object} and ran away.",
            f"One {day} the wind carried the {object} away.",
            f"But one {day} nobody could find the {object}.",
        )
    )


def _event(rng: random.Random, object: str) -> str:
    animal, other = rng.sample(_ANIMALS, 2)
    here, there = rng.sample(_SPOTS, 2)
    return rng.choice(
        (
            rng.choice(_WEATHER),
            f"They looked {here} and {there}.",
            f"They searched {here}, but there was only {a(rng.choice(_ADJECTIVES))} {rng.choice(_THINGS)}.",
            f'{a(animal).capitalize()} said: "Look {here}!"',
            f'They asked {a(animal)}, and the {animal} said: "Ask the {other}."',
            f"The {animal} and the {other} helped for {rng.randint(2, 30)} days.",
            f"The {object} was not {here}.",
            f"The {rng.choice(_TRADES)} had not seen the {object}.",
        )
    )


def _find(rng: random.Random, object: str, finder: str) -> str:
    spot = rng.choice(_SPOTS)
    return rng.choice(
        (
            f"At last {a(finder)} found the {object} {spot}.",
            f"Then {a(finder)} saw something {spot}: it was the {object}!",
            f"On the next {rng.choice(_DAYS)} {a(finder)} came with the {object}.",
        )
    )


def _question(rng: random.Random, object: str, finder: str) -> str:
    return rng.choice(
        (
            f'"Whose {object} is this?" asked the {finder}. It belonged to',
            f"The {finder} knew whose it was and gave the {object} back to",
            f"So the {object} came back to",
            f"Everybody who saw it said that it was the {object} of",
            f"On the {object} stood the name",
        )
    )


def _closing(rng: random.Random, name: str, object: str) -> str:
    return rng.choice(
        (
            f". {name} was happy and thanked everybody.",
            f". How glad {name} was! That night they all sang together.",
            f". From that day on {name} kept the {object} in a box.",
            f". And {name} never lost the {object} again.",
        )
    )
