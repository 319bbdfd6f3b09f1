"""A toy language in which completions end and rewards mean something: sorting small numbers.

A prompt such as ``sort 7 3 12 5 9 =`` asks for ``3 5 7 9 12``. The demonstrations that the policy is
pretrained on are clumsy on purpose: now and then two neighbours are swapped or a filler word slips in. So the
policy starts out half right, with variety inside each group, and has something left to learn from rewards.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast

PAD: Final = "<pad>"
BOS: Final = "<bos>"
EOS: Final = "<eos>"
UNKNOWN: Final = "<unk>"
ASK: Final = "sort"
ANSWER: Final = "="
FILLERS: Final = ("um", "er", "well")
NUMBERS: Final = tuple(str(number) for number in range(20))
VOCABULARY: Final = (PAD, BOS, EOS, UNKNOWN, ASK, ANSWER, *FILLERS, *NUMBERS)

SHORTEST: Final = 5
LONGEST: Final = 8
MAX_COMPLETION_TOKENS: Final = 24
"""Three times the longest list: an answer has room to ramble before it is truncated."""

SWAP_PROBABILITY: Final = 0.20
FILLER_PROBABILITY: Final = 0.08


def questions(count: int, rng: random.Random) -> list[list[str]]:
    """Draw lists of distinct numbers to be sorted."""
    return [rng.sample(NUMBERS, rng.randint(SHORTEST, LONGEST)) for _ in range(count)]


def prompt(numbers: list[str]) -> str:
    """Ask for these numbers in order."""
    return " ".join((ASK, *numbers, ANSWER))


def answer(numbers: list[str]) -> str:
    """Give the one right answer."""
    return " ".join(sorted(numbers, key=int))


def demonstration(numbers: list[str], rng: random.Random) -> str:
    """Answer as a careless teacher does."""
    words = answer(numbers).split()
    for place in range(len(words) - 1):
        if rng.random() < SWAP_PROBABILITY:
            words[place], words[place + 1] = words[place + 1], words[place]
    spoken: list[str] = []
    for word in words:
        if rng.random() < FILLER_PROBABILITY:
            spoken.append(rng.choice(FILLERS))
        spoken.append(word)
    return " ".join(spoken)


def dataset(count: int, seed: int) -> Dataset:
    """Build what GRPO samples from: prompts, and the answers that rewards compare with."""
    from datasets import Dataset

    drawn = questions(count, random.Random(seed))
    return Dataset.from_dict(
        {"prompt": [prompt(numbers) for numbers in drawn], "answer": [answer(numbers) for numbers in drawn]}
    )


def tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer on the spot: a token is a word, and there is nothing to fetch."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    ids = {word: index for index, word in enumerate(VOCABULARY)}
    words = Tokenizer(WordLevel(ids, unk_token=UNKNOWN))
    words.pre_tokenizer = WhitespaceSplit()
    words.post_processor = TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, ids[BOS])])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=words,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNKNOWN,
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
    )
