// Server-sent events out of a fetch: EventSource can send no key, and tells nothing of comments.

/**
 * Yield what a stream says: `{event, data}` for an event, `{comment}` for a comment.
 * @param {ReadableStream<Uint8Array>} body
 * @param {{silenceMs?: number}} [options] Without a byte for so long, it counts as broken.
 */
export async function* events(body, { silenceMs = 0 } = {}) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    let block = { event: "", data: [] };
    try {
        for (;;) {
            const { value, done } = await within(reader.read(), silenceMs);
            if (done) return;
            const lines = (rest + value).split("\n");
            rest = lines.pop();
            for (const line of lines) {
                const text = line.endsWith("\r") ? line.slice(0, -1) : line;
                if (text.startsWith(":")) yield { comment: text.slice(1).trim() };
                else if (text === "") {
                    if (block.data.length)
                        yield { event: block.event, data: block.data.join("\n") };
                    block = { event: "", data: [] };
                } else take(block, text);
            }
        }
    } finally {
        reader.cancel().catch(() => {}); // it may be broken already
    }
}

function take(block, line) {
    const [name, ...more] = line.split(":");
    const value = more.join(":").replace(/^ /, "");
    if (name === "event") block.event = value;
    else if (name === "data") block.data.push(value);
}

function within(promise, ms) {
    if (!ms) return promise;
    let timer;
    const late = new Promise((_, reject) => {
        timer = setTimeout(() => reject(new Error("silence")), ms);
    });
    return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}
