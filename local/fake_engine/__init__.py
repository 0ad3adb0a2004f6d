"""The fake engine: vLLM 0.32's protocol over a deterministic model, for runs without vLLM.

`model` is the model (pure, so that the expected output of every request is known in advance). `answers` reads requests
and generates outputs, `chunks` and `events` write vLLM's JSON, `logprobs` computes values for it, `faults` injects
stream losses, `server` has the routes and `responder` sends the answers. One contract suite (tests/contract) runs
against this engine and the real one.
"""
