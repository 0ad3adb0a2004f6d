"""The stand-in engine: vLLM 0.32's protocol over a deterministic model, for runs without vLLM.

`model` is the model (pure: the right answer to every request is known in advance), `answers` and `chunks` speak vLLM's
JSON, `logprobs` make up values for it, `faults` are losses made to order, `server` is the process with its ways to
fail. One contract suite (tests/contract) runs against it and the real one.
"""
