// All models: where their weights are, who waits for them, and buttons to load and unload.

import { $, attribute, enable, h, say, show, sync } from "./dom.js";
import { count, memory, seconds } from "./format.js";

const STATES = {
    stopped: "stopped",
    starting: "coming up",
    awake: "awake",
    draining: "finishing",
    stopping: "leaving",
    asleep: "asleep",
    failed: "failed",
};
const UP = new Set(["awake", "draining", "starting", "asleep"]);

/** Draws the list of models. */
export class Models {
    /**
     * @param {import("./store.js").Store} store
     * @param {import("./live.js").Live} live
     * @param {import("./admin.js").Admin} admin
     */
    constructor(store, live, admin) {
        this.store = store;
        this.live = live;
        this.admin = admin;
    }

    render() {
        const { status } = this.store;
        if (!status) return;
        const { length, limit, by_model: waiting, wait_s: waits } = status.queue;
        say($("queue"), length ? `${length} of at most ${limit} requests wait` : "Nobody waits");
        say($("mode"), status.mode === "manual" ? "Switching by hand only" : "");
        const rows = status.models.map((model) => ({
            ...model,
            wait: waiting[model.id] ? waits[model.id] : null,
            enabled: this.live.isLive,
        }));
        const here = rows.filter((model) => model.available);
        sync(
            $("model-list"),
            here,
            (model) => model.id,
            () => this.#row(),
        );
        this.#elsewhere(rows.filter((model) => !model.available));
    }

    #elsewhere(models) {
        show($("elsewhere"), models.length > 0);
        say(
            $("elsewhere-count"),
            `${count(models.length, "model")} of the catalog cannot run here`,
        );
        sync($("elsewhere-list"), models, (model) => model.id, elsewhereRow);
    }

    #row() {
        const model = { id: "" };
        const row = {
            name: h("h3", { class: "model-name" }),
            purpose: h("p", { class: "model-purpose" }),
            badge: h("span", { class: "badge" }),
            facts: h("p", { class: "model-facts" }),
            reason: h("p", { class: "model-reason" }),
            load: this.#button("Load", () => this.admin.load(model.id)),
            unload: this.#button("Unload", () => this.admin.unload(model.id)),
        };
        const buttons = h("div", { class: "model-buttons" }, row.load, row.unload);
        const head = h("div", { class: "model-head" }, row.name, row.badge);
        const node = h("li", { class: "model" }, head, row.purpose, row.facts, buttons, row.reason);
        const update = (next) => {
            Object.assign(model, next);
            attribute(node, "data-model", model.id);
            renew(row, model);
        };
        return { node, update };
    }

    #button(text, action) {
        return h("button", { type: "button", class: "small", text, on: { click: action } });
    }
}

function renew(row, model) {
    const { id, state, residency, purpose, enabled, reason } = model;
    say(row.name, id);
    say(row.purpose, [purpose, ...needsOf(model)].filter(Boolean).join(" · "));
    say(row.badge, state === "asleep" ? residency : STATES[state]);
    attribute(row.badge, "data-state", state);
    say(row.facts, factsOf(model).join(" · "));
    show(row.facts, Boolean(row.facts.textContent));
    say(row.reason, reason ?? "");
    show(row.reason, Boolean(reason));
    for (const [button, verb] of [
        [row.load, "Load"],
        [row.unload, "Unload"],
    ]) {
        attribute(button, "aria-label", `${verb} ${id}`);
    }
    enable(row.load, enabled && state !== "awake" && state !== "starting");
    enable(row.unload, enabled && UP.has(state));
}

function needsOf({ awake_mib: awake, memory_mib: held }) {
    const ram = held["RAM of the host"];
    return [awake && `takes ${memory(awake)}`, ram && `${memory(ram)} in RAM`];
}

function factsOf({ inflight, waiting, wait }) {
    const facts = [];
    if (inflight) facts.push(`${inflight} in work`);
    if (waiting) facts.push(`${waiting} waiting`);
    if (wait !== null) facts.push(`a newcomer waits about ${seconds(wait)}`);
    return facts;
}

function elsewhereRow() {
    const name = h("strong");
    const why = h("span");
    const node = h("li", {}, name, " ", why);
    const update = (model) => {
        say(name, model.id);
        say(why, model.unavailable_reason ?? "");
    };
    return { node, update };
}
