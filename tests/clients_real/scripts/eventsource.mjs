// One streamed chat read by an EventSource, which comes back at the next node with the last id that it has:
// BASE_URL MODEL PROMPT TOKENS NODE ...
import { createRequire } from "node:module";

const { EventSource } = createRequire(`${process.env.CLIENT}/package.json`)("eventsource");
const [baseURL, model, prompt, tokens, ...nodes] = process.argv.slice(2);
const body = JSON.stringify({
  model, messages: [{ role: "user", content: prompt }], temperature: 0, max_tokens: Number(tokens),
  ignore_eos: true, stream: true,
});
let stream = null;
let attempts = 0;

async function connect(url, init) {
  if (stream !== null) {
    const node = nodes[attempts++ % nodes.length];
    return fetch(`${node}/v1/streams/${stream}`, init);
  }
  const headers = { ...init.headers, "content-type": "application/json" };
  const response = await fetch(url, { ...init, method: "POST", headers, body });
  stream = response.headers.get("x-synkti-stream");
  return response;
}

let text = "";
let reason = null;
const source = new EventSource(`${baseURL}/chat/completions`, { fetch: connect });
source.onmessage = (event) => {
  if (event.data === "[DONE]") {
    source.close();
    console.log(JSON.stringify({ text, reason, resumed: attempts > 0 }));
    return;
  }
  const document = JSON.parse(event.data);
  if (document.error) return; // this node cannot go on; another one can
  text += document.choices[0]?.delta?.content ?? "";
  reason = document.choices[0]?.finish_reason ?? reason;
};
