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
VOCABULARY = 768
EPOCHS = 400
MAX_SECONDS = 120.0
GOOD_LOSS = 0.004
LEARNING_RATE = 3e-3

CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

WORDS = (
    "The night train went over the river, and nobody on it noticed. ",
    "A node went away; another node took over the stream. ",
    "Поезд ушёл в ночь, и никто ничего не потерял. ",
    "1. one\n2. two\n3. three\n",
    "```python\nprint('still here')\n```\n",
)
"""The tokenizer learns these: their words become tokens."""

CHARACTERS = (
    "夜の列車は川を渡って行った。",
    "夜里火车过了河，没有人丢失一个字。",
    "naïve café, déjà vu… ",
    "🚀🌍 to the moon 🎉🔥 and back 🌙 ",
    "القطار يعبر النهر ",
    "रात की गाड़ी ",
    "👩‍💻 writes 🐍, 👨‍👩‍👧‍👦 waits 🏳️‍🌈. ",
    "밤 기차가 간다. ",
)
"""It never sees these: their characters take three or four tokens each, as rare ones do in real vocabularies."""

CHAT, PLAIN = True, False
QUESTIONS = (
    (CHAT, "Tell me a long story.", 88),
    (PLAIN, "It was a dark night", 88),
    (CHAT, "hello", 4),
    (CHAT, "tell me about emoji 😀", 8),
    (CHAT, "写一首诗", 6),
    (CHAT, "count", 4),
)
"""Whether it is asked in a conversation, what is asked, and how many sentences the answer has."""


def training_conversations() -> list[tuple[bool, str, str]]:
    """Questions and answers, the same every time."""
    made = []
    for number, (chat, question, sentences) in enumerate(QUESTIONS):
        choose = random.Random(number)  # noqa: S311 # the same answers every time are the point
        answer = "".join(choose.choice(WORDS + CHARACTERS) for _ in range(sentences))
        made.append((chat, question, answer))
    return made


def _make_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END_OF_TEXT, TURN, END_OF_TURN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*WORDS * 3, "user\n", "assistant\n", "system\n"], trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TURN,
        pad_token=END_OF_TEXT,
        additional_special_tokens=[TURN],
        clean_up_tokenization_spaces=False,
    )
    made.chat_template = CHAT_TEMPLATE
    return made


def _make_model(tokenizer: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
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


def training_examples(tokenizer: PreTrainedTokenizerFast) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Ids and labels of each conversation; only the answers are learned."""
    made = []
    for chat, question, answer in training_conversations():
        prompt = question
        if chat:
            turns = [{"role": "user", "content": question}]
            prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        asked = tokenizer(prompt, add_special_tokens=False).input_ids
        told = [*tokenizer(answer, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        made.append((torch.tensor([asked + told]), torch.tensor([[-100] * len(asked) + told])))
    return made


def train(model: Qwen2ForCausalLM, every: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """Until it knows all answers by heart; the last loss of the one that it knows worst."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS, LEARNING_RATE / 20)
    model.train()
    give_up_at = time.monotonic() + MAX_SECONDS
    worst = float("inf")
    for _ in range(EPOCHS):
        losses = []
        for ids, labels in every:
            loss = model(input_ids=ids, labels=labels).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(float(loss.item()))
        schedule.step()
        worst = max(losses)
        if worst < GOOD_LOSS or time.monotonic() > give_up_at:
            break
    return worst


def main(folder: Path) -> None:
    """Make the model and write it, with its tokenizer, into the folder; print the loss."""
    torch.manual_seed(1)
    tokenizer = _make_tokenizer()
    model = _make_model(tokenizer)
    began = time.monotonic()
    loss = train(model, training_examples(tokenizer))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    (folder / "generation_config.json").write_text(json.dumps(ids))
    print(f"loss {loss:.4f} after {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
