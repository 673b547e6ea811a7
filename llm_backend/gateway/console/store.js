// What the gateway last said of itself, and when.

import { ApiError } from "./api.js";

const PARTS = {
    status: { path: "/status", everyMs: 2_000 },
    health: { path: "/health", everyMs: 6_000 },
    history: { path: "/api/v1/history", everyMs: 30_000 },
    models: { path: "/v1/models", everyMs: 60_000 },
};
const AFTER_NOTICE = {
    state: { status: 40, health: 300, history: 300 },
    step: { status: 150 },
    lease: { status: 40, health: 300, history: 300 },
    switch: { status: 40, history: 300 },
};

/** Holds an answer per part of the API; tells `change` when one is new. */
export class Store extends EventTarget {
    /**
     * @param {import("./api.js").Api} api
     * @param {import("./live.js").Live} live
     */
    constructor(api, live) {
        super();
        this.api = api;
        this.live = live;
        this.at = {};
        this.frozenAt = null;
        for (const name of Object.keys(PARTS)) {
            this[name] = null;
            this.at[name] = 0;
        }
        this.jobs = new Map();
        live.addEventListener("notice", ({ kind, data }) => this.#notice(kind, data));
        live.addEventListener("change", () => this.#freeze());
        setInterval(() => this.#poll(), 500);
    }

    /** Seconds since a part came; they stand still while the connection is lost. */
    ageS(part) {
        return ((this.frozenAt ?? performance.now()) - this.at[part]) / 1000;
    }

    /** Ask for a part again, in `ms`. */
    want(part, ms = 0) {
        const job = this.jobs.get(part);
        if (job?.timer) return;
        if (job?.isRunning) {
            job.again = true;
            return;
        }
        const timer = setTimeout(() => this.#ask(part), ms);
        this.jobs.set(part, { timer, isRunning: false, again: false });
    }

    #notice(kind, data) {
        if (kind === "snapshot") {
            this.#put("status", data);
            for (const part of ["health", "models", "history"]) this.want(part);
            return;
        }
        for (const [part, ms] of Object.entries(AFTER_NOTICE[kind] ?? {})) this.want(part, ms);
    }

    #freeze() {
        this.frozenAt = this.live.isLive ? null : (this.frozenAt ?? performance.now());
    }

    #poll() {
        if (!this.live.isLive || document.hidden) return;
        for (const [name, { everyMs }] of Object.entries(PARTS)) {
            if (performance.now() - this.at[name] > everyMs) this.want(name);
        }
    }

    async #ask(part) {
        const job = this.jobs.get(part);
        job.timer = null;
        job.isRunning = true;
        try {
            this.#put(part, await this.api.json(PARTS[part].path));
        } catch (error) {
            this.at[part] = performance.now(); // not again at once
            if (!(error instanceof ApiError)) throw error;
            if (error.status === 0) this.live.doubt();
        } finally {
            this.jobs.delete(part);
            if (job.again) this.want(part);
        }
    }

    #put(part, value) {
        this[part] = value;
        this.at[part] = performance.now();
        this.dispatchEvent(Object.assign(new Event("change"), { part }));
    }
}
