// The log of a model's engine, as it is written.

import { ApiError } from "./api.js";
import { $, attribute, enable, h, say, show, sync } from "./dom.js";
import { advice } from "./explain.js";

const FIRST_LINES = 200;
const MOST_LINES = 2_000;

/** Follows one log at a time; not while the page is hidden, for a browser has few connections. */
export class Logs {
    /**
     * @param {import("./api.js").Api} api
     * @param {import("./store.js").Store} store
     * @param {import("./live.js").Live} live
     * @param {import("./admin.js").Admin} admin
     */
    constructor(api, store, live, admin) {
        Object.assign(this, { api, store, live, admin });
        this.wanted = false;
        this.isChosen = false;
        this.abort = null;
        this.view = $("log");
        $("log-follow").addEventListener("click", () =>
            this.wanted ? this.stop() : this.#start(),
        );
        $("log-model").addEventListener("change", () => this.#restart());
        document.addEventListener("visibilitychange", () => this.#restart());
        live.addEventListener("change", () => this.#restart());
    }

    render() {
        const { status } = this.store;
        if (!status) return;
        const models = status.models.filter((model) => model.available).map((model) => model.id);
        sync($("log-model"), models, (id) => id, option);
        if (!this.isChosen && models.length) {
            $("log-model").value = status.model ?? models[0];
            this.isChosen = true;
        }
        attribute($("log-follow"), "aria-pressed", this.wanted);
        enable($("log-follow"), this.wanted || this.live.isLive);
        say($("log-follow"), this.wanted ? "Stop following" : "Follow");
    }

    stop() {
        this.wanted = false;
        this.abort?.abort();
        this.#say("");
        this.render();
    }

    async #start() {
        this.wanted = await this.admin.act(() =>
            this.api.json("/api/v1/device/lease", { scope: "admin" }),
        );
        this.#restart();
        this.render();
    }

    #restart() {
        this.abort?.abort();
        if (this.wanted && this.live.isLive && !document.hidden) this.#follow();
        else if (this.wanted && !this.live.isLive) this.#say("Waiting for the gateway…");
    }

    async #follow() {
        const abort = new AbortController();
        this.abort = abort;
        const model = $("log-model").value;
        this.view.replaceChildren();
        this.#say(`Following ${model}.`);
        try {
            const path = `/logs/${encodeURIComponent(model)}?lines=${FIRST_LINES}&follow=true`;
            const response = await this.api.send(path, { scope: "admin", signal: abort.signal });
            await this.#read(response.body);
            if (!abort.signal.aborted) this.#say("The log ended.");
        } catch (error) {
            if (abort.signal.aborted) return;
            this.#say(
                error instanceof ApiError
                    ? `${error.message} ${advice(error)}`
                    : "The log broke off.",
            );
        }
    }

    async #read(body) {
        const reader = body.pipeThrough(new TextDecoderStream()).getReader();
        for (;;) {
            const { value, done } = await reader.read();
            if (done) return;
            this.#append(value);
        }
    }

    #append(text) {
        const { view } = this;
        const follows = view.scrollHeight - view.scrollTop - view.clientHeight < 40;
        view.append(text);
        while (view.childNodes.length > MOST_LINES) view.firstChild.remove();
        if (follows) view.scrollTop = view.scrollHeight;
    }

    #say(text) {
        say($("log-state"), text);
        show($("log-state"), Boolean(text));
        show($("log"), this.view.childNodes.length > 0 || this.wanted);
    }
}

function option() {
    const node = h("option");
    const update = (id) => {
        say(node, id);
        attribute(node, "value", id);
    };
    return { node, update };
}
