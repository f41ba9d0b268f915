"""What the files beside tokenizer.json declare: the tokenizer's class, and further tokens.

The ids must be those of transformers' AutoTokenizer, which reads five files. Two declarations
change ids. A class (`tokenizer_class` of tokenizer_config.json, else of config.json, unless the
`model_type` has one of its own) may replace parts of tokenizer.json. And tokens that tokenizer.json
lacks may be declared: `added_tokens_decoder`, named ones (bos_token, ...) and
`extra_special_tokens` of tokenizer_config.json, special_tokens_map.json, added_tokens.json; they
follow the vocabulary in an order that is reproduced here step by step.

Source: transformers 5.24: models/auto/tokenization_auto.py, tokenization_utils_base.py
(_from_pretrained), tokenization_utils_tokenizers.py (TokenizersBackend.__init__); below models/
tokenization_llama.py, tokenization_code_llama.py, tokenization_gemma.py, tokenization_qwen2.py and
tokenization_gpt2.py.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import TokenizerError
from ..files.json_file import MAX_FILE, find_object
from ..messages import printable, shown_path
from .chat import TOKEN_NAMES

MAX_IDS = 1 << 21
CONFIG = "tokenizer_config.json"
SPECIAL_MAP = "special_tokens_map.json"
ADDED = "added_tokens.json"


class Token(NamedTuple):
    """An added token, as the `tokenizers` library has it."""

    content: str
    special: bool = False
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool | None = None
    """None: the opposite of `special`, which may still change."""

    @classmethod
    def of(cls, value: object, path: Path, *, special: bool | None = None) -> "Token":
        """From an object of a JSON file; missing flags are False. TokenizerError."""
        if not isinstance(value, dict) or not isinstance(value.get("content"), str):
            raise TokenizerError(
                f"{shown_path(path)}: an added token without content: {printable(repr(value), 120)}"
            )
        if special is None:
            special = value.get("special") is True
        normalized = value.get("normalized")
        return cls(
            value["content"],
            special,
            value.get("single_word") is True,
            value.get("lstrip") is True,
            value.get("rstrip") is True,
            None if normalized is None else normalized is True,
        )

    def final(self, special: bool) -> "Token":
        """With every flag decided; `special` makes it special."""
        special = special or self.special
        if special == self.special and self.normalized is not None:
            return self
        normalized = not special if self.normalized is None else self.normalized
        return self._replace(special=special, normalized=normalized)


_LLAMA = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
_INFILL = {
    "prefix_token": "▁<PRE>",
    "middle_token": "▁<MID>",
    "suffix_token": "▁<SUF>",
    "eot_token": "▁<EOT>",
    "fill_token": "<FILL_ME>",
}
# The special tokens that a class names itself, of classes whose parts are not taken.
_NAMES = {
    "GemmaTokenizer": {
        f"{name}_token": f"<{name}>" for name in ("unk", "bos", "eos", "pad", "mask")
    },
    "Qwen2Tokenizer": dict.fromkeys(("unk_token", "eos_token", "pad_token"), "<|endoftext|>"),
    "GPT2Tokenizer": dict.fromkeys(("unk_token", "bos_token", "eos_token"), "<|endoftext|>"),
}

# Model types whose class in transformers counts instead of a declared one; None has no parts.
_CLASS_OF_TYPE = {
    **dict.fromkeys(("mistral", "mistral3", "ministral", "ministral3", "phi3")),
    **dict.fromkeys(("olmo2", "olmo3", "granite", "granitemoehybrid")),
    "qwen2": "Qwen2Tokenizer",
}
# Model types whose class counts where none is declared.
_CLASS_IF_NONE = {
    "qwen3": "Qwen2Tokenizer",
    **dict.fromkeys(("gemma", "gemma2", "gemma3", "gemma3_text"), "GemmaTokenizer"),
}


@dataclass(frozen=True, eq=False)
class Declarations:
    """What is declared beside one tokenizer.json. Made by `Declarations.of`."""

    own: dict[int, Token]
    """The added tokens of tokenizer.json itself, by id, in its order."""
    parts: dict[str, Any] | None
    """Replaces the parts of tokenizer.json, with a model without vocabulary; None: keep them."""
    names: dict[str, str]
    """The special tokens that have a name, bos_token and the like."""
    tokens: list[Token]
    """Tokens to add, in order: after the file's own, or with `parts` after the vocabulary."""
    begin: str | None
    """The first token of every text, whatever tokenizer.json says: CodeLlama's class."""
    fill: str | None
    """The separator of prefix and suffix in a text: CodeLlama's class."""
    eos: str | None
    """The token that ends a text or a turn, by its name in the files."""
    split_special: bool
    """True: special tokens spelled out in a text are plain text."""
    clean_up: bool
    """True: decoding removes spaces before punctuation."""

    @classmethod
    def of(cls, folder: Path, spec: dict[str, Any], data: bytes) -> "Declarations":
        """From the files in `folder`, whose tokenizer.json is `data`, parsed `spec`.
        TokenizerError, FileError.
        """
        config = find_object(folder / CONFIG, MAX_FILE, TokenizerError)
        _check_versions(config, folder)
        name = _class_name(folder, config)
        rebuilt = name in ("LlamaTokenizer", "CodeLlamaTokenizer") and _is_plain_bpe(spec, data)
        code = rebuilt and name == "CodeLlamaTokenizer"
        own = own_tokens(spec, folder / "tokenizer.json")
        arguments = _Arguments(folder, config, own)
        padding = spec.get("padding")
        if isinstance(padding, dict) and isinstance(padding.get("pad_token"), str):
            arguments.set_defaults({"pad_token": padding["pad_token"]})
        parts = None
        if rebuilt:
            arguments.set_defaults(_LLAMA | _INFILL if code else _LLAMA)
        else:
            there = {token.content for token in own.values()}
            names = _NAMES.get(name or "", {})
            arguments.set_defaults({key: value for key, value in names.items() if value in there})
        named = arguments.named()
        if rebuilt:
            parts = _code_llama(config, named) if code else _llama(config)
        here = () if rebuilt else own.values()
        tokens = _to_add(here, arguments.decoder, list(named.values()), arguments.extra())
        if name == "Qwen2Tokenizer":  # it drops the flags of the special ones
            contents = [_content(token) or "" for token in (*named.values(), *arguments.extra())]
            tokens += [Token(content, special=True) for content in contents]
        return cls(
            own,
            parts,
            {key: _content(token) or "" for key, token in named.items()},
            tokens,
            begin=_content(named.get("bos_token")) if code else None,
            fill=_content(named.get("fill_token")) if code else None,
            eos=_content(named.get("eos_token")),
            split_special=config.get("split_special_tokens") is True,
            clean_up=_cleans_up(config, spec),
        )


def around(first: tuple[str, int] | None, last: tuple[str, int] | None) -> dict[str, Any]:
    """A post-processor that puts these tokens, each with its id, around every text."""

    def special(token: tuple[str, int] | None) -> list[dict[str, Any]]:
        return [] if token is None else [{"SpecialToken": {"id": token[0], "type_id": 0}}]

    single = [*special(first), {"Sequence": {"id": "A", "type_id": 0}}, *special(last)]
    tokens = dict(token for token in (first, last) if token is not None)
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {
            token: {"id": token, "ids": [id], "tokens": [token]} for token, id in tokens.items()
        },
    }


def own_tokens(spec: dict[str, Any], path: Path) -> dict[int, Token]:
    """The added tokens of tokenizer.json by id."""
    tokens = spec.get("added_tokens") or []
    if not isinstance(tokens, list):
        raise TokenizerError(f"{shown_path(path)}: added_tokens is not a list")
    found: dict[int, Token] = {}
    contents = set()
    for one in tokens:
        token = Token.of(one, path)
        id, name = one.get("id"), f"{token.content!r:.80}"
        if not token.content:
            raise TokenizerError(
                f"{shown_path(path)}: an added token without content: {one!r:.120}"
            )
        if token.content in contents:
            raise TokenizerError(f"{shown_path(path)}: the added token {name} occurs twice")
        if type(id) is not int or not 0 <= id < MAX_IDS:
            raise TokenizerError(
                f"{shown_path(path)}:"
                f" token {name} has id {id!r:.40}; ids go from 0 to {MAX_IDS - 1}"
            )
        if id in found:
            raise TokenizerError(
                f"{shown_path(path)}: id {id} belongs to both {found[id].content!r:.80} and {name}"
            )
        contents.add(token.content)
        found[id] = token
    return found


def _is_plain_bpe(spec: dict[str, Any], data: bytes) -> bool:
    """Whether the classes suit the file: with another one they give ids that no model was trained
    with.
    """
    model = spec.get("model")
    return (
        isinstance(model, dict)
        and model.get("type", "BPE") == "BPE"
        and isinstance(model.get("vocab"), dict)
        and b'"ByteLevel"' not in data
    )


def _cleans_up(config: dict[str, Any], spec: dict[str, Any]) -> bool:
    forced = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"
    model = spec.get("model")
    bpe = isinstance(model, dict) and model.get("type", "BPE") == "BPE"
    wanted = config.get("clean_up_tokenization_spaces") is True
    return wanted and (not bpe or config.get(forced) is True)


def _check_versions(config: dict[str, Any], folder: Path) -> None:
    files = config.get("fast_tokenizer_files")
    if isinstance(files, list) and any(name != "tokenizer.json" for name in files):
        raise TokenizerError(
            f"{shown_path(folder / CONFIG)}:"
            " fast_tokenizer_files chooses among tokenizer files by the version"
            " of transformers; name the right one tokenizer.json and drop that key"
        )


def _class_name(folder: Path, config: dict[str, Any]) -> str | None:
    model = find_object(folder / "config.json", MAX_FILE, TokenizerError)
    kind = str(model.get("model_type"))
    if kind in _CLASS_OF_TYPE:
        return _CLASS_OF_TYPE[kind]
    declared = (config.get("tokenizer_class"), model.get("tokenizer_class"))
    name = next((name for name in declared if name is not None), _CLASS_IF_NONE.get(kind))
    return name.removesuffix("Fast") if isinstance(name, str) else None


# ---- the parts of the classes ----


def _llama(config: dict[str, Any]) -> dict[str, Any]:
    prefix = config.get("add_prefix_space")
    prefix = True if prefix is None else bool(prefix)
    scheme = "never" if not prefix else "always" if config.get("legacy") else "first"
    return sentencepiece(scheme, unknown=None, strip=prefix)


def _code_llama(config: dict[str, Any], named: dict[str, str | Token]) -> dict[str, Any]:
    prefix = config.get("add_prefix_space")
    scheme = "first" if prefix is None or prefix else "never"
    parts = sentencepiece(scheme, unknown=str(_content(named.get("unk_token"))), strip=True)
    return parts | {"post_processor": None}  # or `beginning` with the first token, see `begin`


def sentencepiece(scheme: str, *, unknown: str | None, strip: bool) -> dict[str, Any]:
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if strip:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Metaspace",
            "replacement": "▁",
            "prepend_scheme": scheme,
            "split": False,
        },
        "decoder": {"type": "Sequence", "decoders": decoders},
        "added_tokens": [],
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": unknown,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
        },
    }


# ---- tokens ----


class _Arguments:
    """The tokens among the arguments with which transformers makes the tokenizer."""

    def __init__(self, folder: Path, config: dict[str, Any], file_tokens: dict[int, Token]) -> None:
        self._folder, self._config = folder, config
        self._given = dict(config)
        self._own: dict[str, Any] = {}  # named tokens beyond the seven
        self._infill: list[str] = []  # names of CodeLlama's class
        self.decoder: dict[int, Token] = {}
        """Added tokens by id, which only decides their order."""
        self._by_content: dict[str, str | Token] = {}
        given = self._given
        if "additional_special_tokens" in given and not given.get("extra_special_tokens"):
            given["extra_special_tokens"] = given.pop("additional_special_tokens")
        for key in config:
            if key.endswith("_token") and key not in TOKEN_NAMES and isinstance(config[key], str):
                self._own[key] = given.pop(key)
        self._move_own()
        if "added_tokens_decoder" in config:
            self._read_decoder()
        else:
            self._read_special_map()
            self._read_added()
            for id, token in file_tokens.items():
                self._put(id, token)
        self._given = {key: self._values(value) for key, value in self._given.items()}

    def set_defaults(self, names: dict[str, str]) -> None:
        """Tokens that the class names unless a file does."""
        self._infill = [key for key in names if key not in TOKEN_NAMES]
        values = {key: self._given.get(key, value) for key, value in names.items()}
        first = {key: values[key] for key in self._infill}
        self._given = {**first, **self._given, **values}

    def named(self) -> dict[str, str | Token]:
        """bos_token and the like by name, the seven of TOKEN_NAMES first."""
        given = self._given
        found: dict[str, str | Token | None] = dict.fromkeys(TOKEN_NAMES)
        for key in TOKEN_NAMES:
            if given.get(key) is not None:
                value = self._token(key, given[key])
                found[key] = self._by_content.get(_content(value) or "", value)
        for key, value in given.items():
            if key.endswith("_token") and key not in TOKEN_NAMES and isinstance(value, str | Token):
                found[key] = value
        for key, value in self._own.items():
            found[key] = self._token(key, value)
        return {key: value for key, value in found.items() if value is not None}

    def extra(self) -> list[str | Token]:
        """The special tokens without a name."""
        key = "extra_special_tokens"
        unnamed: list[str | Token] = []
        if key not in self._given:
            key = "additional_special_tokens"
            unnamed = [self._given[name] for name in self._infill if self._given[name] is not None]
        return [self._token(key, one) for one in (*self._list(key), *unnamed)]

    def _move_own(self) -> None:
        """An extra_special_tokens that is a dict holds named tokens."""
        if isinstance(self._given.get("extra_special_tokens"), dict):
            self._own |= self._given.pop("extra_special_tokens")

    def _put(self, id: int, token: Token) -> None:
        self.decoder[id] = self._by_content[token.content] = token

    def _read_decoder(self) -> None:
        tokens = self._config["added_tokens_decoder"]
        if not isinstance(tokens, dict):
            raise TokenizerError(
                f"{shown_path(self._folder / CONFIG)}:"
                " added_tokens_decoder is not an object of tokens by id"
            )
        for id, value in tokens.items():
            if not id.isascii() or not id.isdecimal() or len(id) > 10:
                raise TokenizerError(
                    f"{shown_path(self._folder / CONFIG)}: added_tokens_decoder has the id"
                    f" {printable(repr(id), 40)}; ids are numbers from 0 up"
                )
            self._put(int(id), Token.of(value, self._folder / CONFIG))

    def _read_special_map(self) -> None:
        path = self._folder / SPECIAL_MAP
        for key, value in find_object(path, MAX_FILE, TokenizerError).items():
            if isinstance(value, dict) and key != "extra_special_tokens":
                value = Token.of(value, path, special=True)
            elif isinstance(value, list):
                value = [
                    Token.of(one, path, special=True) if isinstance(one, dict) else one
                    for one in value
                ]
                if key == "extra_special_tokens":
                    value = [*self._list(key), *value]
            self._given[key] = value
        self._move_own()

    def _read_added(self) -> None:
        path = self._folder / ADDED
        values = [self._given.get(key) for key in TOKEN_NAMES]
        values += self._list("extra_special_tokens")
        special = {_content(value) for value in values}  # objects do not count yet
        for content, id in find_object(path, MAX_FILE, TokenizerError).items():
            if type(id) is not int:
                raise TokenizerError(
                    f"{shown_path(path)}: token {printable(repr(content), 80)} has id"
                    f" {printable(repr(id), 40)}; ids are numbers from 0 up"
                )
            is_special = content in special
            self._put(id, Token(content, is_special, normalized=not is_special))

    def _values(self, value: Any) -> Any:
        """A value of tokenizer_config.json; it or its items as Token where marked as one."""
        if isinstance(value, list):
            return [self._marked(item) for item in value]
        if isinstance(value, dict) and value.get("__type") != "AddedToken":
            return {key: self._marked(item) for key, item in value.items()}
        return self._marked(value)

    def _marked(self, value: Any) -> Any:
        is_token = isinstance(value, dict) and value.get("__type") == "AddedToken"
        return Token.of(value, self._folder / CONFIG) if is_token else value

    def _list(self, key: str) -> list[Any]:
        value = self._given.get(key) or []
        if not isinstance(value, list):
            raise TokenizerError(
                f"{shown_path(self._folder / CONFIG)}: {key} is not a list of tokens"
            )
        return value

    def _token(self, key: str, value: Any) -> str | Token:
        if isinstance(value, str | Token):
            return value
        if isinstance(value, dict) and isinstance(value.get("content"), str):
            return Token.of(value, self._folder / CONFIG)
        raise TokenizerError(
            f"{shown_path(self._folder / CONFIG)}:"
            f" {printable(key, 60)} is {printable(repr(value), 80)},"
            " which is not a token"
        )


def _to_add(
    here: Iterable[Token],
    decoder: dict[int, Token],
    named: Iterable[str | Token],
    extra: Iterable[str | Token],
) -> list[Token]:
    """Tokens to add to a tokenizer that has the tokens `here`, in transformers' order. Those of
    `decoder` are added even if it has them, because their flags may differ.
    """
    names = {_content(value) for value in named}
    first = [decoder[id].final(decoder[id].content in names) for id in sorted(decoder)]
    contents = {token.content for token in (*here, *first)}
    rest = dict.fromkeys(value for value in (*named, *extra) if _content(value) not in contents)
    tokens = [Token(one, special=True) if isinstance(one, str) else one for one in rest]
    return first + [token.final(token.content in names) for token in tokens]


def _content(value: object) -> str | None:
    """The text of a token, None for anything else."""
    return value if isinstance(value, str) else value.content if isinstance(value, Token) else None
