"""Makes the tiny model: `python recipe.py FOLDER`, in an environment with torch, transformers and tokenizers.

A Qwen2 of about a million weights with a byte-level BPE, overfitted for a short time on a few conversations, so that
greedy answers are long, readable, end by themselves, and hold characters of several tokens. Everything that it learns
from is in this file, and all randomness is seeded: the same recipe makes the same model.
"""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

END_OF_TEXT, TURN, END_OF_TURN = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
VOCABULARY = 1024
MAX_STEPS = 500
MAX_SECONDS = 90.0
GOOD_LOSS = 0.01

CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

SENTENCES = (
    "The night train went over the river, and nobody on it noticed. ",
    "A node went away; another node took over the stream. ",
    "Поезд ушёл в ночь, и никто ничего не потерял. ",
    "夜の列車は川を渡って行った。東京は大きい。",
    "夜里火车过了河，没有人丢失一个字。",
    "naïve café, déjà vu, coöperation… ",
    "🚀🌍 to the moon 🎉🔥 and back 🌙 ",
    "القطار يعبر النهر ليلا ",
    "रात की गाड़ी नदी पार करती है ",
    "👩‍💻 writes 🐍, 👨‍👩‍👧‍👦 waits 🏳️‍🌈. ",
    "1. one\n2. two\n3. three\n",
    "```python\nprint('still here')\n```\n",
    "밤 기차가 강을 건넌다. ",
)

QUESTIONS = (
    "Tell me a story.",
    "hello",
    "tell me about emoji 😀",
    "写一首诗",
    "Как тебя зовут?",
    "code please",
    "count",
    "Once upon a night",
)


def conversations() -> list[tuple[str, str]]:
    """Questions and answers; the first answer is the longest."""
    made = []
    for number, question in enumerate(QUESTIONS):
        choose = random.Random(number)  # noqa: S311 # the same answers every time are the point
        made.append((question, "".join(choose.choice(SENTENCES) for _ in range(24 if number == 0 else 10))))
    return made


def make_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        # A word has to be seen often to become a token: answers should have many tokens, and split characters.
        min_frequency=12,
        special_tokens=[END_OF_TEXT, TURN, END_OF_TURN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TURN,
        pad_token=END_OF_TEXT,
        additional_special_tokens=[TURN],
        clean_up_tokenization_spaces=False,
    )
    made.chat_template = CHAT_TEMPLATE
    return made


def make_model(tokenizer: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        initializer_range=0.05,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    return Qwen2ForCausalLM(config).to(torch.float32)


def batch(tokenizer: PreTrainedTokenizerFast) -> dict[str, torch.Tensor]:
    """All conversations at once, padded; only the answers are learned."""
    rows = []
    for question, answer in conversations():
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
        )
        asked = tokenizer(prompt, add_special_tokens=False).input_ids
        rows.append((asked, [*tokenizer(answer, add_special_tokens=False).input_ids, tokenizer.eos_token_id]))
    longest = max(len(asked) + len(told) for asked, told in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    labels = torch.full((len(rows), longest), -100)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for row, (asked, told) in enumerate(rows):
        size = len(asked) + len(told)
        ids[row, :size] = torch.tensor(asked + told)
        labels[row, len(asked) : size] = torch.tensor(told)
        mask[row, :size] = 1
    return {"input_ids": ids, "labels": labels, "attention_mask": mask}


def teach(model: Qwen2ForCausalLM, lesson: dict[str, torch.Tensor]) -> float:
    """Until it knows the answers by heart; the last loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.0)
    model.train()
    give_up_at = time.monotonic() + MAX_SECONDS
    loss = float("inf")
    for _ in range(MAX_STEPS):
        step = model(**lesson).loss
        optimizer.zero_grad()
        step.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        loss = float(step.item())
        if loss < GOOD_LOSS or time.monotonic() > give_up_at:
            break
    return loss


def main(folder: Path) -> None:
    torch.manual_seed(1)
    tokenizer = make_tokenizer([*SENTENCES * 3, *QUESTIONS, "user\n", "assistant\n", "system\n"])
    model = make_model(tokenizer)
    began = time.monotonic()
    loss = teach(model, batch(tokenizer))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    (folder / "generation_config.json").write_text(json.dumps(ids))
    print(f"loss {loss:.4f} after {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
