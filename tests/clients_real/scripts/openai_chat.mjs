// One streamed chat with the OpenAI SDK for Node: BASE_URL MODEL PROMPT TOKENS.
import { createRequire } from "node:module";

const OpenAI = createRequire(`${process.env.CLIENT}/package.json`)("openai");
const [baseURL, model, prompt, tokens] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });
const stream = await client.chat.completions.create({
  model, messages: [{ role: "user", content: prompt }], temperature: 0,
  max_tokens: Number(tokens), ignore_eos: true, stream: true,
});
let text = "";
let reason = null;
for await (const chunk of stream) {
  text += chunk.choices[0]?.delta?.content ?? "";
  reason = chunk.choices[0]?.finish_reason ?? reason;
}
console.log(JSON.stringify({ text, reason }));
