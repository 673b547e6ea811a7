// One question and its answer: asks the gateway, reads the stream, keeps the figures.

import { ApiError, apiError } from "./api.js";
import { events } from "./sse.js";

const PATH = "/v1/chat/completions";

/** `state` is `waiting`, `answering`, `done`, `stopped` or `failed`. */
export class Exchange {
    #tell = () => {};

    /**
     * @param {{text: string, images: {name: string, url: string, size: number}[]}} question
     */
    constructor(question) {
        this.question = question;
        this.reset();
    }

    reset() {
        this.state = "waiting";
        this.text = "";
        this.thinking = "";
        this.note = "";
        this.error = null;
        this.usage = null;
        this.cache = null;
        this.requestId = null;
        this.finish = null;
        this.waited = [];
        this.askedAt = performance.now();
        this.firstAt = this.lastAt = this.endedAt = null;
    }

    get isOver() {
        return this.state !== "waiting" && this.state !== "answering";
    }

    /** Seconds until the first token; null before it came. */
    get firstTokenS() {
        return this.firstAt === null ? null : (this.firstAt - this.askedAt) / 1000;
    }

    /** Tokens a second after the first; null where there are too few to tell. */
    get tokensPerS() {
        const tokens = (this.usage?.completion_tokens ?? 0) - 1;
        const spanS = this.firstAt === null ? 0 : (this.lastAt - this.firstAt) / 1000;
        return tokens >= 1 && spanS > 0.02 ? tokens / spanS : null;
    }

    /** The message that the question is. */
    get message() {
        const { text, images } = this.question;
        if (!images.length) return { role: "user", content: text };
        const pictures = images.map(({ url }) => ({ type: "image_url", image_url: { url } }));
        return { role: "user", content: [...pictures, ...(text ? [{ type: "text", text }] : [])] };
    }

    /**
     * Ask.
     * @param {import("./api.js").Api} api
     * @param {Object} body
     * @param {() => void} tell Called whenever there is more to show.
     */
    async run(api, body, tell) {
        this.reset();
        this.body = body;
        this.#tell = tell;
        this.abort = new AbortController();
        this.#tell();
        try {
            const signal = this.abort.signal;
            const response = await api.send(PATH, { method: "POST", body, signal });
            this.cache = response.headers.get("x-cache");
            this.requestId = response.headers.get("x-request-id");
            for await (const said of events(response.body)) this.#take(said);
            if (!this.isOver) this.#fail(new ApiError("The answer broke off."));
        } catch (error) {
            this.#fail(error);
        }
    }

    stop() {
        this.abort?.abort();
    }

    #take({ comment, data }) {
        if (comment !== undefined) this.#hear(comment);
        else if (data === "[DONE]") this.#end("done");
        else if (!this.isOver) this.#read(JSON.parse(data));
    }

    #hear(comment) {
        if (comment.startsWith("timing:")) this.waited = timings(comment.slice(7));
        else if (!this.isOver) this.note = comment;
        this.#tell();
    }

    #read(chunk) {
        if (chunk.error) throw apiError(chunk.error, null, this.requestId);
        if (chunk.usage) this.usage = chunk.usage;
        const choice = chunk.choices?.[0];
        if (choice?.finish_reason) this.finish = choice.finish_reason;
        const text = choice?.delta?.content ?? "";
        const thinking = choice?.delta?.reasoning_content ?? choice?.delta?.reasoning ?? "";
        if (!text && !thinking) return;
        this.lastAt = performance.now();
        this.firstAt ??= this.lastAt;
        this.text += text;
        this.thinking += thinking;
        this.state = "answering";
        this.note = "";
        this.#tell();
    }

    #fail(error) {
        if (error.name === "AbortError") this.#end("stopped");
        else {
            this.error = error instanceof ApiError ? error : new ApiError("The answer broke off.");
            this.#end("failed");
        }
    }

    #end(state) {
        this.state = state;
        this.note = "";
        this.endedAt = performance.now();
        this.#tell();
    }
}

/** Read `queue;dur=12.3, load;dur=4000`: names and seconds. */
function timings(text) {
    return [...text.matchAll(/([\w-]+);dur=([\d.]+)/g)].map(([, name, ms]) => ({
        name: name.replace("_", " "),
        seconds: Number(ms) / 1000,
    }));
}
