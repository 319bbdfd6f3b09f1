"""A model that sees, with its processor and data, as small as those of ``tiny_trainers``. It needs Pillow."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import tiny_trainers as tiny
from datasets import Dataset
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from rlhf_otel.demo import language

IMAGE: Final = "<image>"
SIZE, PATCH = 8, 4
CHAT_TEMPLATE: Final = (
    "{% for m in messages %}{% if m['content'] is string %}{{ m['content'] }} {% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image> {% else %}{{ c['text'] }} {% endif %}{% endfor %}{% endif %}{% endfor %}"
)


def processor() -> Any:
    """The toy language's tokenizer with a token for pictures, and a processor for these."""
    tokenizer = language.tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE]})
    return LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}),
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        chat_template=CHAT_TEMPLATE,
        image_token=IMAGE,
        num_additional_image_tokens=1,
    )


def image_token(tokenizer: Any) -> int:
    """The token that stands for a patch, which no completion may hold."""
    return int(tokenizer.convert_tokens_to_ids(IMAGE))


def model(processor: Any) -> Any:
    """One layer of width 16 for text, and one for pictures."""
    tokenizer = processor.tokenizer
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        image_size=SIZE, patch_size=PATCH, projection_dim=16,
    )  # fmt: skip
    found = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=vision,
            text_config=tiny.configuration(tokenizer),
            image_token_index=image_token(tokenizer),
            vision_feature_layer=-1,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    found.generation_config.eos_token_id = tokenizer.eos_token_id
    found.generation_config.pad_token_id = tokenizer.pad_token_id
    return found


def pictures() -> Dataset:
    """Prompts as messages, each with a picture of one colour."""
    from PIL import Image

    asked = tiny.prompts()
    shades = (np.full((SIZE, SIZE, 3), 7 * number, dtype=np.uint8) for number in range(len(asked)))
    return Dataset.from_dict(
        {
            "prompt": [[{"role": "user", "content": text}] for text in asked],
            "image": [Image.fromarray(shade) for shade in shades],
        }
    )
