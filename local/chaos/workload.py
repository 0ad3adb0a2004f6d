"""Generates random requests of every kind that Synkti continues, by seed, with their expected outputs."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

from local.certificate import Output
from local.fake_engine import model as fake_model
from local.fake_engine.answers import SamplingParams, generate

_TEXTS = ("a night train", "the river", "雨の夜", "Once upon a time", "🚀 and 🌍", "two nodes", "кто там", "3 lights")
_SAMPLER_STATES: dict[str, dict[str, Any]] = {
    "seed": {"temperature": 1.1, "seed": 7},
    "penalties": {"temperature": 0, "frequency_penalty": 0.3, "presence_penalty": 0.6},
    "grammar": {"temperature": 0, "structured_outputs": {"regex": "([a-z]{8} ){400}"}},
    "all": {
        "temperature": 0.9,
        "seed": 3,
        "frequency_penalty": 0.2,
        "structured_outputs": {"regex": "([a-z]{6}, ){400}"},
    },
}
"""What an output may depend on besides its ids; it continues only with the plug-in. The fake engine has the first."""

EVENT_ROUTES = ("responses", "messages")
_EXTRA_BODY_FIELDS = frozenset({"structured_outputs"})
_STOPS = ("node", "。", "мир", "🎉", "\n2. ", "another node took")


@dataclass(frozen=True)
class WorkloadRequest:
    """One request.

    route: chat, plain, responses or messages; via: client (the transport) or gateway (a stock client); state: one of
    _SAMPLER_STATES, or none; salt: of its KV blocks, so that only nodes that had the stream have its context.
    """

    route: str
    text: str
    max_tokens: int
    via: str
    stream: bool = True
    choices: int = 1
    stop: tuple[str, ...] = ()
    echo: bool = False
    logprobs: bool = False
    returns_token_ids: bool = False
    usage: bool = False
    state: str = ""
    salt: str = ""

    @property
    def key(self) -> tuple[object, ...]:
        """A key: requests with equal keys have equal outputs."""
        return self.route, self.text, self.max_tokens, self.stop, self.echo, self.state

    @property
    def chat(self) -> bool:
        """True for a conversation, /v1/chat/completions."""
        return self.route == "chat"

    @property
    def uses_named_events(self) -> bool:
        """True for the routes whose events have names, and carry no token ids."""
        return self.route in EVENT_ROUTES

    def event_body(self, model: str) -> dict[str, Any]:
        """Return the body for a route with named events, which do not accept all fields of the others."""
        request: dict[str, Any] = {"model": model, "stream": self.stream, "temperature": 0}
        request |= {"cache_salt": self.salt} if self.salt else {}
        turns = [{"role": "user", "content": self.text}]
        if self.route == "responses":
            return request | {"input": turns, "max_output_tokens": self.max_tokens, "ignore_eos": True}
        return request | {"messages": turns, "max_tokens": self.max_tokens}

    def sdk_arguments(self, model: str) -> dict[str, Any]:
        """Return the keyword arguments of the SDK's `create`."""
        options: dict[str, Any] = {"model": model, "max_tokens": self.max_tokens}
        options["temperature"] = 0 if self.choices == 1 else 1  # vLLM takes several only where it samples
        options["extra_body"] = {"ignore_eos": True} | ({"return_token_ids": True} if self.returns_token_ids else {})
        if self.salt:
            options["extra_body"]["cache_salt"] = self.salt
        state = _SAMPLER_STATES.get(self.state, {})
        options |= {name: value for name, value in state.items() if name not in _EXTRA_BODY_FIELDS}
        options["extra_body"] |= {name: value for name, value in state.items() if name in _EXTRA_BODY_FIELDS}
        if self.chat:
            options["messages"] = [{"role": "user", "content": self.text}]
        else:
            options["prompt"] = self.text
        if self.choices > 1:
            options["n"] = self.choices
        if self.stop:
            options["stop"] = list(self.stop)
        if self.echo:
            options["echo"] = True
        if self.logprobs:
            options |= {"logprobs": True, "top_logprobs": 1} if self.chat else {"logprobs": 1}
        if self.stream:
            options |= {"stream": True}
            if self.usage:
                options["stream_options"] = {"include_usage": True}
        return options


def random_request(
    random: Random, tokens: tuple[int, int], *, texts: int = len(_TEXTS), choices: int = 3, states: int = 0
) -> WorkloadRequest:
    """Return a random request. tokens: least and most of `max_tokens`; choices: at most; states: how many kinds.

    With sampling the expected output of a real vLLM is unknown; the fake engine's is always the same.
    """
    text = _TEXTS[random.randrange(min(texts, len(_TEXTS)))]
    max_tokens = random.randrange(*tokens, 20) if tokens[0] < tokens[1] else tokens[0]
    through = random.choice(("client", "gateway"))
    stream = random.random() < 0.9
    if random.random() < 0.2:
        return WorkloadRequest(random.choice(EVENT_ROUTES), text, max_tokens, through, stream)
    chat = random.random() < 0.5  # half of the rest
    echo = not chat and random.random() < 0.2
    logprobs = not echo and random.random() < 0.2
    many = random.choice((1, 1, 1, 1, choices))
    has_state = states > 0 and many == 1  # each of several choices would have a seed of its own
    return WorkloadRequest(
        route="chat" if chat else "plain",
        text=text,
        max_tokens=max_tokens,
        via=through,
        stream=stream,
        choices=many,
        stop=(random.choice(_STOPS),) if random.random() < 0.2 else (),
        echo=echo,
        logprobs=logprobs,
        returns_token_ids=not echo and random.random() < 0.5,
        usage=random.random() < 0.5,
        state=random.choice(["", *_SAMPLER_STATES][: states + 1]) if has_state else "",
    )


def expected(request: WorkloadRequest) -> Output:
    """Return the fake engine's output, which is known without a request."""
    if request.route == "plain":
        prompt = fake_model.completion_prompt(request.text)
    else:
        prompt = fake_model.chat_prompt([{"role": "user", "content": request.text}])
    seed = _SAMPLER_STATES.get(request.state, {}).get("seed")
    to_its_end = request.route == "messages"  # which has no ignore_eos
    reference = generate(
        prompt, SamplingParams(request.max_tokens, ignore_eos=not to_its_end, stop=request.stop, seed=seed)
    )
    return Output(reference.token_ids, (request.text if request.echo else "") + reference.text)
