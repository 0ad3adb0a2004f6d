"""What vLLM does with the requests that a node refuses, and that the node's lists are those of vLLM's request models.

The first needs a server; the second only vLLM's package, in its own environment.
"""

from __future__ import annotations

import json
import subprocess
from typing import Any

import httpx
import pytest

from local.engine_env import engine_environ, ensure_engine
from node_agent.contract.client_requests import GUARDED_FIELDS
from node_agent.core.policy.fields import PASSED, TAKES_SALT
from tests.engines import Engine
from tests.refused_requests import CHAT, REFUSED, TEXT, RefusedRequest, chat, text

pytestmark = pytest.mark.vllm
ONLY = pytest.mark.parametrize("plugged", ["plain"], indirect=True)

_MODELS = """
import json
from vllm.entrypoints.anthropic.protocol import AnthropicCountTokensRequest, AnthropicMessagesRequest
from vllm.entrypoints.generate.generative_scoring.serving import GenerativeScoringRequest
from vllm.entrypoints.generate.structured_decisions.protocol import StructuredDecisionRequest
from vllm.entrypoints.openai.chat_completion.protocol import BatchChatCompletionRequest, ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
from vllm.entrypoints.pooling.classify import protocol as classify
from vllm.entrypoints.pooling.embed import protocol as embed
from vllm.entrypoints.pooling.pooling import protocol as pooling
from vllm.entrypoints.pooling.scoring import protocol as scoring
from vllm.entrypoints.serve.tokenize.protocol import DetokenizeRequest, TokenizeChatRequest, TokenizeCompletionRequest
from vllm.entrypoints.speech_to_text.transcription.protocol import TranscriptionRequest
from vllm.entrypoints.speech_to_text.translation.protocol import TranslationRequest
SCORES = [scoring.ScoreDataRequest, scoring.ScoreQueriesDocumentsRequest, scoring.ScoreQueriesItemsRequest,
          scoring.ScoreTextRequest]
MODELS = {
    "/v1/chat/completions": [ChatCompletionRequest],
    "/v1/chat/completions/batch": [BatchChatCompletionRequest],
    "/v1/completions": [CompletionRequest],
    "/v1/responses": [ResponsesRequest],
    "/v1/messages": [AnthropicMessagesRequest],
    "/v1/messages/count_tokens": [AnthropicCountTokensRequest],
    "/tokenize": [TokenizeCompletionRequest, TokenizeChatRequest],
    "/detokenize": [DetokenizeRequest],
    "/v1/embeddings": [embed.EmbeddingCompletionRequest, embed.EmbeddingChatRequest],
    "/v2/embed": [embed.CohereEmbedRequest],
    "/pooling": [pooling.PoolingCompletionRequest, pooling.PoolingChatRequest, pooling.IOProcessorRequest],
    "/classify": [classify.ClassificationCompletionRequest, classify.ClassificationChatRequest],
    "/score": SCORES,
    "/v1/score": SCORES,
    "/rerank": [scoring.RerankRequest],
    "/v1/rerank": [scoring.RerankRequest],
    "/v2/rerank": [scoring.RerankRequest],
    "/generative_scoring": [GenerativeScoringRequest],
    "/v1/systemone": [StructuredDecisionRequest],
    "/v1/audio/transcriptions": [TranscriptionRequest],
    "/v1/audio/translations": [TranslationRequest],
}
print(json.dumps({path: sorted({field.alias or name for model in models for name, field in model.model_fields.items()})
                  for path, models in MODELS.items()}))
"""


@pytest.fixture(scope="module")
def fields() -> dict[str, set[str]]:
    """The fields of vLLM's request models, by route."""
    python = ensure_engine(print) / "bin" / "python"
    done = subprocess.run(
        [python, "-c", _MODELS], env=dict(engine_environ()), capture_output=True, text=True, check=True, timeout=240
    )
    return {path: set(names) for path, names in json.loads(done.stdout.splitlines()[-1]).items()}


@pytest.mark.parametrize("path", sorted(PASSED))
def test_every_field_of_vllm_is_on_one_of_the_lists_and_no_other_is(path: str, fields: dict[str, set[str]]) -> None:
    """An update of vLLM fails here, until someone has decided about each new field."""
    unknown = fields[path] - PASSED[path] - GUARDED_FIELDS.keys()
    assert not unknown, "decide whether they pass or are guarded"
    assert PASSED[path] - fields[path] <= {"normalize"}, "vLLM reads it, and refuses it by name"
    assert ("cache_salt" in fields[path]) is (path in TAKES_SALT)


def send(engine: Engine, request: RefusedRequest) -> httpx.Response:
    return httpx.request(request.method, engine.url + request.path, json=request.body, timeout=120)


REACHED: dict[str, tuple[RefusedRequest, int]] = {
    name: (next(each for each in REFUSED if each.name == name), status)
    for name, status in (
        ("invocations", 200),
        ("tokenize", 200),
        ("salt", 200),
        ("prompts", 200),
        ("itself", 500),
        ("itself of a response", 500),
    )
}
"""Requests of the list that vLLM 0.32 itself executes, or answers with 500; the others it refuses with 400 by now."""


@ONLY
@pytest.mark.parametrize("name", REACHED)
def test_what_reached_vllm_before_would_reach_it_still(plugged: Engine, name: str) -> None:
    """Where this fails, vLLM has changed: the row may say so."""
    request, status = REACHED[name]
    assert send(plugged, request).status_code == status


@ONLY
@pytest.mark.parametrize(
    "fields",
    [{"store": True}, {"a_field_of_tomorrow": {"a": 1}}, {"service_tier": "flex", "metadata": {"a": "b"}}],
    ids=lambda fields: next(iter(fields)),
)
def test_a_field_that_is_left_out_changes_no_answer_of_vllm(plugged: Engine, fields: dict[str, Any]) -> None:
    for path, body in ((CHAT, chat(temperature=0)), (TEXT, text(temperature=0))):
        plain, more = (httpx.post(plugged.url + path, json={**body, **add}, timeout=120).json() for add in ({}, fields))
        assert plain["choices"] == more["choices"]


@ONLY
@pytest.mark.parametrize("salt", ["A" * 43, "a-_" * 14 + "b"])
def test_vllm_accepts_a_derived_salt(plugged: Engine, salt: str) -> None:
    assert httpx.post(plugged.url + CHAT, json=chat(cache_salt=salt), timeout=120).status_code == 200
