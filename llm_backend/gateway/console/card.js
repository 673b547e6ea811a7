// Who holds the card: a bar of its memory, the model that is awake, the switch under way.

import { $, attribute, h, say, show, sync } from "./dom.js";
import { age, clock, memory, seconds } from "./format.js";

const SERVING = new Set(["awake", "draining"]);
const KINDS = { awake: "awake", draining: "awake", starting: "loading", stopping: "leaving" };
const UNNAMED_MIB = 256;
const ORDER = ["awake", "loading", "leaving", "asleep"];
const WORDS = {
    awake: "awake",
    loading: "coming up",
    leaving: "leaving",
    asleep: "asleep",
    lease: "leased",
    foreign: "other programs",
    free: "free",
};

/** Draws the devices and the journey. */
export class Card {
    /**
     * @param {import("./store.js").Store} store
     * @param {import("./journey.js").Follower} follower
     */
    constructor(store, follower) {
        this.store = store;
        this.follower = follower;
    }

    render() {
        const { status } = this.store;
        if (!status) return;
        sync($("devices"), this.#devices(), (device) => device.name, deviceRow);
        this.#journey();
    }

    #devices() {
        const { status, health } = this.store;
        const names = new Set();
        for (const model of status.models)
            if (model.available) model.devices.forEach((d) => names.add(d));
        return [...names].map((name) =>
            deviceOf(name, health?.devices[name], status, this.store.ageS("status")),
        );
    }

    #journey() {
        const { journey } = this.follower;
        show($("journey"), journey !== null);
        if (!journey) return;
        const now = this.store.frozenAt ?? performance.now();
        attribute($("journey"), "data-outcome", journey.outcome ?? "none");
        say($("journey-title"), titleOf(journey));
        say($("journey-times"), this.#times(journey, now));
        say($("journey-reason"), journey.reason);
        show($("journey-reason"), Boolean(journey.reason));
        this.#bar(journey, now);
        const rows = [...journey.stages, ...journey.ahead].map((stage, number) => ({
            ...stage,
            key: `${journey.id} ${number} ${stage.name}`,
            progress: stage.state === "now" ? journey.progress : null,
            now,
        }));
        sync($("stages"), rows, (row) => row.key, stageRow);
    }

    #leftS(journey) {
        const estimate = this.store.status.switch?.estimate_s ?? null;
        if (journey.isOver || estimate === null) return null;
        return Math.max(0, estimate - this.store.ageS("status"));
    }

    #times(journey, now) {
        const spent = journey.elapsedS(now);
        if (journey.isOver) return spent === null ? "" : `took ${seconds(spent)}`;
        const left = this.#leftS(journey);
        if (left !== null) return `${age(spent)}, about ${age(Math.max(1, left))} left`;
        return journey.to ? `${age(spent)}; how long it takes is not known yet` : age(spent);
    }

    #bar(journey, now) {
        const left = this.#leftS(journey);
        const spent = journey.elapsedS(now);
        const share = left === null ? null : Math.min(0.99, spent / Math.max(0.1, spent + left));
        show($("journey-bar"), !journey.isOver);
        attribute(
            $("journey-bar"),
            "aria-valuenow",
            share === null ? null : Math.round(share * 100),
        );
        attribute($("journey-bar"), "data-unknown", share === null);
        $("journey-fill").style.width = share === null ? "" : `${(share * 100).toFixed(1)}%`;
    }
}

function titleOf({ from, to, outcome }) {
    const way = from && to && from !== to ? `${from} → ${to}` : (to ?? from ?? "an engine");
    if (outcome === "failed") return `Failed: ${way}`;
    if (outcome === "cancelled") return `Called off: ${way}`;
    if (outcome === "ok") return to ? `Last switch: ${way}` : `Unloaded: ${way}`;
    if (!to) return `Unloading ${way}`;
    return from && from !== to ? `Switching: ${way}` : `Bringing up ${to}`;
}

function deviceOf(name, reading, status, ageS) {
    const here = status.models.filter((m) => name in m.memory_mib || usesIt(m, name));
    const leases = status.leases.filter((lease) => lease.device === name);
    const parts = here.filter((m) => m.memory_mib[name]).map((m) => partOf(m, name));
    parts.sort((one, other) => ORDER.indexOf(one.kind) - ORDER.indexOf(other.kind));
    const others = othersOf(reading, parts, leases);
    return {
        name,
        reading,
        parts: [...parts, ...others],
        holders: here.filter((m) => SERVING.has(m.state) || m.state === "starting"),
        leases,
        ageS,
    };
}

// Models that reserve nothing still hold their device while they are up.
function usesIt(model, name) {
    return model.devices.includes(name) && KINDS[model.state] !== undefined;
}

function partOf(model, name) {
    const kind = model.state === "asleep" ? "asleep" : KINDS[model.state];
    return { key: `model ${model.id}`, kind, label: model.id, mib: model.memory_mib[name] };
}

function othersOf(reading, parts, leases) {
    if (!reading) return leases.filter((x) => x.mib).map((x) => leasePart(x, x.mib));
    const ours = parts.reduce((sum, part) => sum + part.mib, 0);
    const used = reading.total_mib - reading.free_mib;
    const foreign = foreignOf(reading.foreign_mib, Math.max(0, used - ours));
    const rest = Math.max(0, reading.total_mib - ours - foreign);
    const lent = leases.map((x) =>
        leasePart(x, Math.min(rest, x.mib === null ? rest : Math.max(0, x.mib - foreign))),
    );
    const free = Math.max(0, rest - lent.reduce((sum, part) => sum + part.mib, 0));
    return [
        ...lent,
        { key: "foreign", kind: "foreign", label: WORDS.foreign, mib: foreign },
        { key: "free", kind: "free", label: WORDS.free, mib: free },
    ].filter((part) => part.mib > 0);
}

// The driver holds a little that nobody is named for; more than that is somebody's.
function foreignOf(named, unexplained) {
    return named === null || unexplained - named >= UNNAMED_MIB ? unexplained : named;
}

const leasePart = (lease, mib) => ({
    key: `lease ${lease.id}`,
    kind: "lease",
    label: lease.reason,
    mib,
});

function deviceRow() {
    const parts = {
        name: h("h3"),
        maker: h("span", { class: "maker" }),
        used: h("span", { class: "figure" }),
        holder: h("ul", { class: "holders" }),
        bar: h("div", { class: "membar", role: "img" }),
        legend: h("ul", { class: "legend" }),
    };
    const head = h("div", { class: "device-head" }, parts.name, parts.maker, parts.used);
    const node = h("article", { class: "device" }, head, parts.holder, parts.bar, parts.legend);
    return { node, update: (device) => renewDevice(parts, device) };
}

function renewDevice(row, device) {
    const { reading, name, parts } = device;
    say(row.name, name);
    say(row.maker, reading?.name ?? "its memory cannot be read");
    const used = reading && reading.total_mib - reading.free_mib;
    say(row.used, reading ? `${memory(used)} of ${memory(reading.total_mib)} in use` : "");
    sync(row.holder, holdersOf(device), (line) => line.key, holderRow);
    show(row.bar, parts.length > 0);
    const told = parts.map((p) => `${p.label}${suffix(p)} ${memory(p.mib)}`).join(", ");
    attribute(row.bar, "aria-label", `Memory of ${name}: ${told}`);
    sync(row.bar, parts, (part) => part.key, barPart);
    sync(row.legend, parts, (part) => part.key, legendPart);
}

const suffix = (part) => (part.label === WORDS[part.kind] ? "" : ` (${WORDS[part.kind]})`);

function holdersOf({ holders, leases, ageS }) {
    const models = holders.map((model) => ({
        key: model.id,
        kind: KINDS[model.state],
        name: model.id,
        text: holderText(model, ageS),
    }));
    const lent = leases.map((lease) => ({
        key: lease.id,
        kind: "lease",
        name: lease.reason,
        text: `has ${lease.mib === null ? "all of it" : memory(lease.mib)} for ${age(Math.max(0, lease.expires_in_s - ageS))} more`,
    }));
    const all = [...models, ...lent];
    return all.length
        ? all
        : [{ key: "nobody", kind: "free", name: "", text: "No model is awake." }];
}

function holderText(model, ageS) {
    const since = model.since_s + ageS;
    const at = clock(Date.now() - since * 1000);
    if (model.state === "starting") return `is coming up, for ${age(since)}`;
    if (model.state === "draining") return `is finishing ${model.inflight} before it leaves`;
    const busy = model.inflight ? `, ${model.inflight} in work` : "";
    return `is awake since ${at} (${age(since)})${busy}`;
}

function holderRow() {
    const name = h("strong");
    const text = h("span");
    const node = h("li", {}, name, " ", text);
    const update = (line) => {
        attribute(node, "data-kind", line.kind);
        say(name, line.name);
        say(text, line.text);
    };
    return { node, update };
}

function barPart() {
    const node = h("span", { class: "membar-part" });
    const update = (part) => {
        attribute(node, "data-kind", part.kind);
        attribute(node, "title", `${part.label}: ${memory(part.mib)}`);
        node.style.flexGrow = String(part.mib);
    };
    return { node, update };
}

function legendPart() {
    const label = h("span", { class: "legend-label" });
    const amount = h("span", { class: "figure" });
    const swatch = h("span", { class: "swatch", "aria-hidden": "true" });
    const node = h("li", {}, swatch, label, amount);
    const update = (part) => {
        attribute(swatch, "data-kind", part.kind);
        say(label, `${part.label}${suffix(part)}`);
        say(amount, memory(part.mib));
    };
    return { node, update };
}

const MARKS = { now: "under way", done: "done", failed: "failed", ahead: "to come" };

function stageRow() {
    const label = h("span", { class: "stage-label" });
    const mark = h("span", { class: "sr" });
    const told = h("span", { class: "stage-told" });
    const time = h("span", { class: "figure" });
    const node = h("li", { class: "stage" }, mark, label, told, time);
    const update = (stage) => {
        attribute(node, "data-state", stage.state);
        attribute(node, "data-stage", stage.name);
        say(mark, `${MARKS[stage.state]}: `);
        say(label, stage.label);
        say(told, stage.progress ? progressText(stage.progress) : "");
        say(time, stageTime(stage));
    };
    return { node, update };
}

function progressText({ text, fraction }) {
    return fraction === null || fraction === undefined
        ? text
        : `${text} ${Math.round(fraction * 100)} %`;
}

function stageTime({ state, seconds: took, beganAt, now }) {
    if (state === "now") return age((now - beganAt) / 1000);
    return took === null ? "" : seconds(took);
}
