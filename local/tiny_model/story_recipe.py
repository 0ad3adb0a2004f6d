"""Makes the model of `make run`: `python -m local.tiny_model.story_recipe FOLDER`, as `recipe`, but taught two stories.

What a person reads is English; what the tests read (`recipe`) has many scripts, and characters of several tokens.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

from local.tiny_model import read_stories, recipe

QUESTIONS = ("Tell me a story about a night train.", "Tell me a story about a lighthouse.")
"""The question for each story."""

EPOCHS = 160
GOOD_LOSS = 0.01
WARM_UP_SHARE = 0.05
LEARNING_RATE = 3e-3
"""The highest; it rises at first, and falls to almost nothing, without which some tokens stay wrong."""

Example = tuple[torch.Tensor, torch.Tensor]
"""Ids and labels of a conversation."""


def training_examples(tokenizer: PreTrainedTokenizerFast) -> list[Example]:
    """Return the examples, of which only the answers are learned."""
    made = []
    for question, answer in zip(QUESTIONS, read_stories(), strict=True):
        turns = [{"role": "user", "content": question}]
        prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        asked = tokenizer(prompt, add_special_tokens=False).input_ids
        told = [*tokenizer(answer, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        made.append((torch.tensor([asked + told]), torch.tensor([[-100] * len(asked) + told])))
    return made


def train(model: Qwen2ForCausalLM, examples: list[Example]) -> float:
    """Train until each next token is the most likely one, so that greedy answers are the stories; return the loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    steps = EPOCHS * len(examples)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, steps, pct_start=WARM_UP_SHARE)
    model.train()
    loss = float("inf")
    for _ in range(EPOCHS):
        losses, is_known = [], True
        for ids, labels in examples:
            output = model(input_ids=ids, labels=labels)
            optimizer.zero_grad()
            output.loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(float(output.loss.item()))
            is_known = is_known and _is_known(output.logits, labels)
        loss = max(losses)
        if is_known and loss < GOOD_LOSS:
            break
    return loss


def _is_known(logits: torch.Tensor, labels: torch.Tensor) -> bool:
    """Return True if the most likely token is the right one everywhere."""
    predicted, wanted = logits[0, :-1].argmax(-1), labels[0, 1:]
    return bool(((predicted == wanted) | (wanted == -100)).all())


def main(folder: Path) -> None:
    """Make the model and write it, with its tokenizer, into the folder; print the loss."""
    torch.manual_seed(1)
    tokenizer = recipe._make_tokenizer()
    model = recipe._make_model(tokenizer)
    began = time.monotonic()
    loss = train(model, training_examples(tokenizer))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    (folder / "generation_config.json").write_text(json.dumps(ids))
    print(f"loss {loss:.4f} after {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
