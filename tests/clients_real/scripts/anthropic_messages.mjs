// One streamed message with Anthropic's SDK for Node: BASE_URL MODEL PROMPT TOKENS.
import { createRequire } from "node:module";

const Anthropic = createRequire(`${process.env.CLIENT}/package.json`)("@anthropic-ai/sdk");
const [baseURL, model, prompt, tokens] = process.argv.slice(2);
const client = new Anthropic({ baseURL: baseURL.replace(/\/v1$/, ""), apiKey: "none", maxRetries: 0 });
const stream = client.messages.stream({
  model, messages: [{ role: "user", content: prompt }], temperature: 0, max_tokens: Number(tokens),
});
let text = "";
stream.on("text", (delta) => { text += delta; });
const message = await stream.finalMessage();
if (message.stop_reason === null) throw new Error("the message has no stop_reason: it is not whole");
console.log(JSON.stringify({ text, reason: message.stop_reason }));
