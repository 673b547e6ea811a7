// The connection to the gateway's events: held for as long as the page is open, and honest about
// when it was lost.

import { ApiError } from "./api.js";
import { events } from "./sse.js";

const SILENCE_MS = 25_000; // the gateway says something every ten seconds
const ANSWER_MS = 10_000;
const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 5_000;

/**
 * `state` is `connecting` (never connected yet), `live`, `lost` or `locked` (a key is needed).
 * Tells `change` when it is another one, and `notice` (with `kind` and `data`) for each event.
 */
export class Live extends EventTarget {
    /** @param {import("./api.js").Api} api */
    constructor(api) {
        super();
        this.api = api;
        this.state = "connecting";
        this.lostAt = null;
        this.why = "";
        this.retry = () => {};
        this.abort = new AbortController();
        addEventListener("online", () => this.hurry());
        document.addEventListener("visibilitychange", () => document.hidden || this.hurry());
    }

    get isLive() {
        return this.state === "live";
    }

    /** Connect, and do so again for ever. */
    async run() {
        let pause = FIRST_PAUSE_MS;
        for (;;) {
            const since = performance.now();
            await this.#listen();
            pause = performance.now() - since > 10_000 ? FIRST_PAUSE_MS : pause;
            await this.#pause(this.state === "locked" ? 3_600_000 : pause);
            pause = Math.min(pause * 1.6, LONGEST_PAUSE_MS);
        }
    }

    /** Try again now, if it waits to. */
    hurry() {
        this.retry();
    }

    /** Something else failed to reach the gateway: see whether this connection still lives. */
    doubt() {
        this.abort.abort();
    }

    async #listen() {
        this.abort = new AbortController();
        const slow = setTimeout(() => this.abort.abort(), ANSWER_MS);
        try {
            const response = await this.api.send("/events", { signal: this.abort.signal });
            clearTimeout(slow);
            for await (const said of events(response.body, { silenceMs: SILENCE_MS })) {
                if (said.event) this.#take(said.event, JSON.parse(said.data));
            }
            this.#lose("The gateway ended the connection.");
        } catch (error) {
            this.#fail(error);
        } finally {
            clearTimeout(slow);
            this.abort.abort();
        }
    }

    #take(kind, data) {
        if (kind === "snapshot") this.#become("live");
        this.dispatchEvent(Object.assign(new Event("notice"), { kind, data }));
    }

    #fail(error) {
        if (error instanceof ApiError && error.isAboutKeys) {
            this.why = error.message;
            this.#become("locked");
        } else this.#lose(error instanceof ApiError ? error.message : "The connection broke off.");
    }

    #lose(why) {
        this.why = why;
        this.lostAt ??= Date.now();
        this.#become(this.state === "connecting" ? "connecting" : "lost");
    }

    #become(state) {
        if (state === "live") this.lostAt = null;
        const changed = state !== this.state;
        this.state = state;
        if (changed) this.dispatchEvent(new Event("change"));
    }

    #pause(ms) {
        return new Promise((resolve) => {
            const timer = setTimeout(resolve, ms);
            this.retry = () => {
                clearTimeout(timer);
                resolve();
            };
        });
    }
}
