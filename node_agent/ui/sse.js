// Reads server-sent events from a fetch() response. EventSource cannot send a key as a header.

const MAX_EVENT_CHARS = 16 * 1024 * 1024;

/** Yields {event, data, id, comments} of a response's body, whole events only. Throws where the connection breaks. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  let comments = [];
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      buffer += value.replaceAll("\r", "");
      if (buffer.length > MAX_EVENT_CHARS) throw new Error("an event without end");
      const blocks = buffer.split("\n\n");
      buffer = blocks.pop();
      for (const block of blocks) {
        const found = parse(block, comments);
        if (found.data !== null) {
          yield found;
          comments = [];
        }
      }
    }
  } finally {
    await reader.cancel().catch(() => {});
  }
}

function parse(block, comments) {
  const found = { event: "", data: null, id: "", comments };
  for (const line of block.split("\n")) {
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (colon === 0) comments.push(value);
    else if (field === "data") found.data = found.data === null ? value : `${found.data}\n${value}`;
    else if (field === "event") found.event = value;
    else if (field === "id") found.id = value;
  }
  return found;
}
