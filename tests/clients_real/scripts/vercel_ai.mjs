// One streamed chat with Vercel's AI SDK: BASE_URL MODEL PROMPT TOKENS.
const modules = `${process.env.CLIENT}/node_modules`;
const { streamText } = await import(`${modules}/ai/dist/index.js`);
const { createOpenAICompatible } = await import(`${modules}/@ai-sdk/openai-compatible/dist/index.js`);
const [baseURL, model, prompt, tokens] = process.argv.slice(2);
const provider = createOpenAICompatible({ name: "synkti", baseURL, apiKey: "none" });
const result = streamText({
  model: provider(model), messages: [{ role: "user", content: prompt }], temperature: 0,
  maxOutputTokens: Number(tokens), maxRetries: 0, providerOptions: { synkti: { ignore_eos: true } },
});
let text = "";
let reason = null;
for await (const part of result.fullStream) {
  if (part.type === "error") throw part.error;
  if (part.type === "text-delta") text += part.text;
  if (part.type === "finish") reason = part.finishReason;
}
if (reason === null || reason === "unknown" || reason === "error") throw new Error(`it ended with ${reason}`);
console.log(JSON.stringify({ text, reason }));
