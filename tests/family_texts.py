"""What tokenizers of all families are tried with: the regular expressions of released ones, and texts
that show where they differ.
"""

import random

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN35 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
R1 = (
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
)

REGEXES = (GPT2, CL100K, QWEN2, QWEN35, TEKKEN, O200K, R1)

SENTENCES = (
    "The cat's kitten isn't on the mat; they've said that we'll see 1234 things in 2025.",
    "def f(x):\n    return x + 1  # the next one\n\n\tprint(f'{x}')\r\n",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. Élan, naïve, café.",
    "Привет, как дела? Это просто пример текста на русском языке, и ещё один пример.",
    "日本語のテキストです。これは例文です。 中文的句子也在这里。 안녕하세요 반갑습니다.",
    "हिन्दी में एक वाक्य। مرحبا بالعالم. שלום עולם. สวัสดีชาวโลก",
    "emoji 😀👩‍👩‍👧‍👦🇩🇪 and symbols → ≤ ∑ € ½ ² HTTPServer XMLParser parseURL",
)


TEXTS = [
    "",
    " ",
    "The cat's kitten ISN'T on THE mat, we'LL see",
    "0 12 123 1234567890 ٣٤٥ ½²③ 1,234.50 0x1F",
    "a\u0301e\u0308 \u00e1 \u1100\u1161\u11a8 \u212b \ufb01 o\u0302\u0323 \u0344",  # NFC changes them
    "e\u0301<|im_end|>e\u0301<s>\u0301",
    "line\r\nline\n\n\n  line\t\t \n x\r\r\n   ",
    "    indented\n\tcode()  # comment /* */ // \\\\ /\n/\r\n",
    "HTTPServerError XMLParser aBcDEf ǅabc ʰʱ ÀÉîõ ЖЗи ＡＢｃ",
    "日本語のテキスト、中文句子。한국어 문장 ไทย हिन्दी العربية עברית",
    "😀👩‍👩‍👧‍👦🇩🇪 \u200b\u202e\ufeff\u00ad\u2028\u0085\u3000",
    "\0\x01\x7f a\0b ￿\U0010ffff",
    "<s>a</s> b <s> </s><unk><bos>x<eos><pad><mask> <|endoftext|>",
    "[INST] Hi [/INST] ok</s>[INST]x[/INST]",
    "<start_of_turn>user\nHi<end_of_turn>\n<unused0><table>\n\n\n<h1>",
    "<|user|>\n Hi<|end|>\n  <|assistant|> x <|end|>y",
    "<|im_start|>system\nx<|im_end|> <|im_sep|>  y<|im_sep|>",
    '<think>\n\n</think>\n\n<tool_call>{"a": 1}',
    "<｜begin▁of▁sentence｜><｜User｜>Hi<｜Assistant｜>",
    "[BOS][|user|]Hi[|endofturn|]\n[PAD]",
    "▁ ▁▁ ▁a ▁▁▁b  \u2581",
    " leading and trailing ",
    "'s 's' 'S ’s don't DON'T I'd've",
    "a" * 300 + "B" * 300 + " " * 300 + "x" + "\u0301" * 50,
]

_LETTERS = [
    "abcdefgh",
    "ABCDEFGH",
    "äöüßéñçø",
    "жзийклм",
    "日本語中文字",
    "한국어문장",
    "हिन्दीकख",
    "0123456789",
    "٣٤½²Ⅷ",
    "    ",
    " \t\n\r",
    "\n\n\r\n",
    "\u0301\u0308\u0323\u093c",
    "'’.,;:!?/\\",
    "()[]{}<>|_#*+-=",
    "▁▁",
    "😀👍🏽🇩🇪\u200d",
    "ǅǈʰᵃ\u0345",
    "\u00a0\u3000\u2028\u200b",
    "\0\x7f\x1b",
]


def random_text(r: random.Random, tokens: list[str]) -> str:
    """Runs of letters of one kind, words, contractions and spelled-out tokens."""
    words = [*SENTENCES[r.randrange(len(SENTENCES))].split(" "), "'s", "'LL", "'ve", *tokens]
    pieces = []
    for _ in range(r.randint(1, 14)):
        if r.random() < 0.4:
            pieces.append(r.choice(words))
        else:
            letters = r.choice(_LETTERS)
            pieces.append("".join(r.choice(letters) for _ in range(r.randint(1, 6))))
    return r.choice(("", " ")).join(pieces)
