"""Chats about the stories, as messages, and the one template that makes text of messages.

The template is chat_template.jinja beside this file; tokenizer.py copies it into tokenizer_config.json. A user
asks for a story (about a name of the user's choice) or tells one and asks who owned what; few words of small
talk besides.
"""

import datetime
import random
from pathlib import Path

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment
from stories import WILD, a, make_name, make_story

TEMPLATE = Path(__file__).with_name("chat_template.jinja").read_text()
BOS, EOS = "<|begin_of_text|>", "<|end_of_text|>"
START_HEADER, END_HEADER, EOT = "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"
SPECIAL_TOKENS = (BOS, EOS, START_HEADER, END_HEADER, EOT)

_SYSTEM = (
    "You tell short stories.",
    "You are a friendly teller of stories.",
    "Answer in few words.",
)
_SMALL_TALK = (
    ("Who are you?", "I am a very small model. I tell stories about lost things."),
    ("What can you do?", "I can tell you a story, and I remember who owns what."),
    ("Hello!", "Hello! Shall I tell you a story?"),
    ("Hello", "Hello! Shall I tell you a story?"),
    ("Hi", "Hello! Shall I tell you a story?"),
    ("Thank you!", "You are welcome. Shall I tell you another story?"),
)
_MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()


def _refuse(reason: str) -> None:
    raise ValueError(reason)


_environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
_environment.undefined = jinja2.StrictUndefined
_environment.globals["raise_exception"] = _refuse
_template = _environment.from_string(TEMPLATE)


def render(
    messages: list[dict[str, str]], date: datetime.date, add_generation_prompt: bool = False
) -> str:
    """The text of a chat, BOS and all."""
    shown = f"{date.day:02d} {_MONTHS[date.month - 1]} {date.year}"
    return _template.render(
        messages=messages,
        date_string=shown,
        bos_token=BOS,
        add_generation_prompt=add_generation_prompt,
    )


def make_chat(rng: random.Random) -> str:
    """A rendered chat of one or two questions, on any day of a quarter of a century."""
    kinds = (_ask_for_story, _ask_about_story, _story_then_question, _small_talk)
    turns = rng.choices(kinds, (5, 4, 2, 1))[0](rng)
    messages = [
        {"role": role, "content": text}
        for turn in turns
        for role, text in zip(("user", "assistant"), turn, strict=False)
    ]
    if rng.random() < 0.3:
        messages.insert(0, {"role": "system", "content": rng.choice(_SYSTEM)})
    date = datetime.date(2010, 1, 1) + datetime.timedelta(days=rng.randrange(9131))
    if rng.random() < 0.3:
        date = datetime.date(2024, 7, 26)
    return render(messages, date)


def _ask_for_story(rng: random.Random) -> list[tuple[str, str]]:
    if rng.random() < 0.2:
        asks = ("Tell me a story.", "Please tell me a story.", "Tell me another story.")
        return [(rng.choice(asks), make_story(rng, long=False).text)]
    name = make_name(rng, max(WILD, 0.4))
    asks = (
        f"Tell me a story about {name}.",
        f"Please tell me a story about {name}.",
        f"Tell me about {name}.",
    )
    return [(rng.choice((asks[0], *asks)), make_story(rng, hero=name, long=False).text)]


def _ask_about_story(rng: random.Random) -> list[tuple[str, str]]:
    story = make_story(rng, long=False)
    question, answer = _question(rng, story.owners)
    return [(f"{story.text}\n\n{question}", answer)]


def _story_then_question(rng: random.Random) -> list[tuple[str, str]]:
    name = make_name(rng)
    story = make_story(rng, hero=name, long=False)
    return [(f"Tell me a story about {name}.", story.text), _question(rng, story.owners)]


def _small_talk(rng: random.Random) -> list[tuple[str, str]]:
    return [rng.choice(_SMALL_TALK), *(_ask_for_story(rng) if rng.random() < 0.5 else [])]


def _question(rng: random.Random, owners: tuple[tuple[str, str], ...]) -> tuple[str, str]:
    name, object = rng.choice(owners)
    return rng.choice(
        (
            (f"Whose {object} was it?", f"The {object} belonged to {name}."),
            (f"Who had the {object}?", f"{name} had the {object}."),
            (f"What did {name} have?", f"{name} had {a(object)}."),
        )
    )
