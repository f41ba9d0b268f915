"""The model that comes with the package: its files, its tokenizer, its chat template, and that it can copy.

Copying and attention are computed here by reference.py, so that neither torch nor the C core is needed. The
stories come from tools/demo; where that folder is absent (an installed package) their tests are skipped.
"""

import datetime
import json
import math
import random
import re
import struct
from pathlib import Path

import jinja2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

import llamaprobe
from llamaprobe.config import inverse_frequencies, read_config
from llamaprobe.prompts.declarations import Declarations
from llamaprobe.prompts.trust import is_harmless
from llamaprobe.prompts.vocabulary import Vocabulary
from llamaprobe.reference import forward

DEMO = Path(llamaprobe.__file__).parent / "demo"
TOOLS = Path(__file__).parent.parent / "tools" / "demo"
SPECIAL = [
    *("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>"),
    "<|eot_id|>",
]
SPEC = json.loads((DEMO / "tokenizer.json").read_text())
TOKENIZER_CONFIG = json.loads((DEMO / "tokenizer_config.json").read_text())
TOKENIZER = Tokenizer.from_file(str(DEMO / "tokenizer.json"))
CARD = (DEMO / "README.md").read_text()


def read_weights() -> tuple[dict, dict[str, np.ndarray]]:
    """The header of model.safetensors, and its bf16 tensors as float32."""
    data = (DEMO / "model.safetensors").read_bytes()
    (size,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + size])
    weights = {}
    for name, tensor in header.items():
        if name != "__metadata__":
            begin, end = (8 + size + offset for offset in tensor["data_offsets"])
            bits = np.frombuffer(data[begin:end], "<u2").astype(np.uint32) << 16
            weights[name] = bits.view(np.float32).reshape(tensor["shape"])
    return header, weights


@pytest.fixture(scope="module")
def model():
    return read_config(DEMO), read_weights()[1]


@pytest.fixture
def stories(monkeypatch):
    if not TOOLS.is_dir():
        pytest.skip(f"the grammar of the stories is not here: no {TOOLS}")
    monkeypatch.syspath_prepend(str(TOOLS))
    return pytest.importorskip("stories")


# ---- weights and config ----


def test_weights_are_small():
    assert (DEMO / "model.safetensors").stat().st_size <= 2_200_000


def test_tensors_are_those_of_a_tied_llama():
    header, weights = read_weights()
    config = read_config(DEMO)
    d, q, kv = config.d_model, config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    layer = {
        **{f"self_attn.{n}_proj": (m, d) for n, m in (("q", q), ("k", kv), ("v", kv))},
        "self_attn.o_proj": (d, q),
        **{f"mlp.{n}_proj": (config.d_ff, d) for n in ("gate", "up")},
        "mlp.down_proj": (d, config.d_ff),
        **{n: (d,) for n in ("input_layernorm", "post_attention_layernorm")},
    }
    shapes = {"model.embed_tokens.weight": (config.vocab_size, d), "model.norm.weight": (d,)}
    for i in range(config.n_layers):
        shapes |= {f"model.layers.{i}.{n}.weight": shape for n, shape in layer.items()}
    assert {name: w.shape for name, w in weights.items()} == shapes
    assert {header[name]["dtype"] for name in weights} == {"BF16"}
    assert all(np.isfinite(w).all() and w.std() > 0 for w in weights.values())


def test_config_is_llama_3_2_in_miniature():
    config = read_config(DEMO)
    assert (config.n_heads, config.n_kv_heads, config.head_dim) == (4, 2, 32)
    assert config.tied_head and config.max_positions == 2048 and config.rope_theta == 1e4
    assert config.vocab_size == TOKENIZER.get_vocab_size() <= 1024
    assert config.raw["torch_dtype"] == "bfloat16"
    assert config.raw["architectures"] == ["LlamaForCausalLM"]
    assert config.rope_scaling["rope_type"] == "llama3"
    assert config.rope_scaling["factor"] == 8
    assert config.rope_scaling["original_max_position_embeddings"] == 256


def test_all_three_rope_bands_occur():
    config = read_config(DEMO)
    ratio = config.inv_freq / inverse_frequencies(config.rope_theta, config.head_dim)
    kept, slowed = ratio == 1, np.isclose(ratio, 1 / 8, rtol=1e-6)
    assert kept.any() and slowed.any() and (~kept & ~slowed).any()
    assert np.all(np.diff(ratio) <= 0)


def test_ids_in_the_configs_match_the_tokenizer():
    bos, eos, eot = (TOKENIZER.token_to_id(SPECIAL[i]) for i in (0, 1, 4))
    config, generation = read_config(DEMO), json.loads(
        (DEMO / "generation_config.json").read_text()
    )
    assert config.bos_token_id == generation["bos_token_id"] == bos
    assert config.eos_token_id == (eos, eot) == tuple(generation["eos_token_id"])
    assert generation["do_sample"] is False


# ---- tokenizer ----


def test_vocabulary_is_bytes_merges_specials():
    declared = Declarations.of(DEMO, SPEC, (DEMO / "tokenizer.json").read_bytes())
    vocabulary = Vocabulary.of(SPEC, DEMO / "tokenizer.json", declared)
    assert sorted(vocabulary.spelling(i) for i in range(256)) == [bytes([b]) for b in range(256)]
    assert vocabulary.names[-len(SPECIAL) :] == SPECIAL
    assert len(vocabulary.names) == 256 + len(SPEC["model"]["merges"]) + len(SPECIAL)
    assert is_harmless(SPEC, vocabulary.added)


def test_special_tokens_are_special_and_one_id_each():
    assert [t["content"] for t in SPEC["added_tokens"] if t["special"]] == SPECIAL
    assert len(SPEC["added_tokens"]) == len(SPECIAL)
    ids = TOKENIZER.encode("a".join(SPECIAL), add_special_tokens=False).ids
    assert ids[::2] == [TOKENIZER.token_to_id(t) for t in SPECIAL]


def test_text_begins_with_one_bos():
    ids = TOKENIZER.encode("Once upon a time").ids
    assert ids[0] == TOKENIZER.token_to_id(SPECIAL[0]) and ids.count(ids[0]) == 1
    assert TOKENIZER.encode("").ids == ids[:1]


@pytest.mark.parametrize(
    "text, pieces",
    [
        ("12345678", ["123", "456", "78"]),
        ("  word", [" ", " word"]),
        ("it'S \n\n no", ["it", "'S", " \n\n", " no"]),
        ("a!?\n", ["a", "!?\n"]),
    ],
)
def test_text_is_cut_as_in_llama_3(text, pieces):
    spans = TOKENIZER.pre_tokenizer.pre_tokenize_str(text)
    assert [text[a:b] for _, (a, b) in spans] == pieces


@given(st.text().filter(lambda text: not any(token in text for token in SPECIAL)))
def test_any_text_comes_back(text):
    ids = TOKENIZER.encode(text, add_special_tokens=False).ids
    assert TOKENIZER.decode(ids) == text
    assert all(id < TOKENIZER.token_to_id(SPECIAL[0]) for id in ids)


# ---- chat template ----


def render(messages, **variables):
    """As transformers renders it, with the clock at 31 January 2025."""

    def refuse(reason):
        raise jinja2.TemplateError(reason)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = refuse
    if variables.pop("clock", True):
        environment.globals["strftime_now"] = datetime.date(2025, 1, 31).strftime
    template = environment.from_string(TOKENIZER_CONFIG["chat_template"])
    return template.render(messages=messages, bos_token=SPECIAL[0], **variables)


def block(role, text):
    return f"<|start_header_id|>{role}<|end_header_id|>\n\n{text}<|eot_id|>"


CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": " Hello! "},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": "Who are you?"},
]


def test_template_renders_every_message():
    expected = SPECIAL[0] + block("system", "Today is 31 Jan 2025.\n\nBe brief.")
    expected += block("user", "Hello!") + block("assistant", "Hello!")
    expected += block("user", "Who are you?")
    assert render(CHAT) == expected
    opened = expected + "<|start_header_id|>assistant<|end_header_id|>\n\n"
    assert render(CHAT, add_generation_prompt=True) == opened


@pytest.mark.parametrize(
    "variables, date",
    [
        ({}, "31 Jan 2025"),
        ({"clock": False}, "26 Jul 2024"),
        ({"date_string": "01 Feb 2020"}, "01 Feb 2020"),
    ],
)
def test_date_of_the_template(variables, date):
    expected = SPECIAL[0] + block("system", f"Today is {date}.\n\n") + block("user", "Hi")
    assert render(CHAT[1:2] and [{"role": "user", "content": "Hi"}], **variables) == expected


@pytest.mark.parametrize("role", ["tool", "system"])
def test_template_refuses_other_roles(role):
    with pytest.raises(jinja2.TemplateError, match=f"not {role}"):
        render([*CHAT, {"role": role, "content": "x"}])


def test_chat_has_one_bos_and_its_end_marks_are_single_tokens():
    ids = TOKENIZER.encode(render(CHAT, add_generation_prompt=True), add_special_tokens=False).ids
    counts = [ids.count(TOKENIZER.token_to_id(token)) for token in SPECIAL]
    assert counts == [1, 0, 5, 5, 4] and ids[0] == TOKENIZER.token_to_id(SPECIAL[0])


def test_template_is_the_one_used_in_training():
    if not TOOLS.is_dir():
        pytest.skip(f"no {TOOLS}")
    assert TOKENIZER_CONFIG["chat_template"] == (TOOLS / "chat_template.jinja").read_text()


# ---- stories ----


def test_stories_keep_held_out_pairs_apart(stories):
    rng = random.Random(1)
    for held_out in (False, True):
        for _ in range(200):
            story = stories.make_story(rng, held_out=held_out)
            assert {stories.is_held_out(*pair) for pair in story.owners} == {held_out}
            assert (story.name, story.object) in story.owners


def test_the_end_depends_on_the_beginning(stories):
    rng = random.Random(2)
    for _ in range(200):
        story = stories.make_story(rng)
        last = max(story.opening.rfind(name) for name, _ in story.owners)
        search = story.opening[last:].split(".", 1)[1]
        assert not any(name in search for name, _ in story.owners)
        assert len(search.split()) > 10
        assert story.text.startswith(f"{story.opening} {story.name}")


def test_stories_are_seeded(stories):
    texts = [[stories.make_story(random.Random(seed)).text for seed in (5, 5, 6)]]
    assert texts[0][0] == texts[0][1] != texts[0][2]


def copies(model, opening, name):
    """True if greedy decoding after `opening` gives the tokens of `name`, and then no more of a word."""
    before = TOKENIZER.encode(opening).ids
    name_ids = TOKENIZER.encode(f" {name}", add_special_tokens=False).ids
    logits = forward(*model, [*before, *name_ids])["logits"]
    best = logits[len(before) - 1 :].argmax(axis=-1).tolist()
    goes_on = TOKENIZER.decode(best[len(name_ids) :])[:1].isalpha()
    return best[: len(name_ids)] == name_ids and not goes_on


@pytest.mark.slow
def test_names_of_held_out_pairs_are_copied(model, stories):
    """40 prompts; with the 95 % that the model must reach, 34 or fewer come by chance once in 500 times."""
    rng, copied = random.Random("held out"), []
    while len(copied) < 40:
        story = stories.make_story(rng, held_out=True, long=False)
        if len(TOKENIZER.encode(f" {story.name}", add_special_tokens=False).ids) > 1:
            copied.append(copies(model, story.opening, story.name))
    assert sum(copied) >= 35


# ---- model card ----


def test_the_prompt_of_the_card_continues_as_stated(model):
    prompt, continuation = re.findall(r"^    (Once .*|[A-Z]\w+\..*)$", CARD, re.MULTILINE)[:2]
    ids = TOKENIZER.encode(prompt).ids
    expected = TOKENIZER.encode(f" {continuation}", add_special_tokens=False).ids
    assert len(expected) >= 10
    logits = forward(*model, [*ids, *expected])["logits"]
    assert logits[len(ids) - 1 : -1].argmax(axis=-1).tolist() == expected


def test_the_head_of_the_card_attends_to_the_name(model):
    layer, head = map(int, re.search(r"^Layer (\d+), head (\d+) ", CARD, re.MULTILINE).groups())
    prompt = re.search(r"^    (Once .*)$", CARD, re.MULTILINE)[1]
    name = re.search(r"named (\w+)", prompt)[1]
    encoding = TOKENIZER.encode(prompt)
    keys = [
        i
        for i, (a, b) in enumerate(encoding.offsets)
        for match in re.finditer(name, prompt)
        if a < match.end() and match.start() < b
    ]
    pattern = forward(*model, encoding.ids)["pattern"]  # [n_layers, n_heads, n_tokens, n_tokens]
    share = pattern[:, :, -1, keys].sum(axis=-1)
    assert share[layer, head] > 0.5
    assert share[layer, head] > 4 * len(keys) / len(encoding.ids)


def ablated(number: str) -> str:
    return f"{100 * float(number):.0f} %"


def test_the_card_states_what_is_left_without_the_head_that_copies(monkeypatch):
    if not TOOLS.is_dir():
        pytest.skip(f"the grammar of the stories is not here: no {TOOLS}")
    monkeypatch.syspath_prepend(str(TOOLS))
    import ablation

    with llamaprobe.load("demo") as model:
        stories = ablation.held_out_stories(model)
        whole = ablation.copied_share(model, stories, None)
        without = ablation.copied_share(model, stories, ablation.without_head(3, 1))
    assert f"copied in\n{ablated(whole)}; without" in CARD
    assert f"depends on: {ablated(without)} are left" in CARD and whole - without > 0.3


@pytest.mark.slow
def test_the_card_states_what_is_left_without_each_head(monkeypatch):
    if not TOOLS.is_dir():
        pytest.skip(f"the grammar of the stories is not here: no {TOOLS}")
    monkeypatch.syspath_prepend(str(TOOLS))
    import ablation

    with llamaprobe.load("demo") as model:
        table = ablation.ablation_table(model, ablation.held_out_stories(model))
    for layer, row in enumerate(table):
        assert f"| layer {layer} | {' | '.join(map(ablated, row))} |" in CARD


def test_the_card_matches_the_file():
    header, weights = read_weights()
    facts = header["__metadata__"]
    assert f"Seed {facts['seed']}, {facts['steps']} steps" in CARD
    assert f"{sum(math.prod(w.shape) for w in weights.values()):,} parameters" in CARD


def test_the_card_reports_the_goal_as_reached():
    assert float(re.search(r"400 prompts \| \*\*([\d.]+) %\*\*", CARD)[1]) >= 95
