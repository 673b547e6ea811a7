// Who held the card when, and how long the last switches took.

import { $, attribute, h, say, show, sync } from "./dom.js";
import { clock, clockToTheSecond, seconds } from "./format.js";

const WINDOWS = [300, 900, 3600, 6 * 3600, 24 * 3600];
const TICKS = 5;
const ROWS = 12;
const WORDS = {
    starting: "coming up",
    awake: "awake",
    draining: "finishing",
    stopping: "leaving",
    asleep: "asleep",
    failed: "failed",
    leasing: "being cleared",
    leased: "leased",
};

/** Draws the timeline and the table of switches. */
export class Timeline {
    /** @param {import("./store.js").Store} store */
    constructor(store) {
        this.store = store;
        this.chosen = "auto";
        $("window").addEventListener("change", (event) => {
            this.chosen = event.target.value;
            this.render();
        });
    }

    render() {
        const { history } = this.store;
        if (!history) return;
        const ageS = this.store.ageS("history");
        const span = this.#span(history.covers_s + ageS);
        const now =
            Date.now() -
            (this.store.frozenAt === null ? 0 : performance.now() - this.store.frozenAt);
        this.#lanes(history.held, ageS, span);
        this.#axis(now, span);
        const switches = history.switches.slice(-ROWS).reverse();
        show($("switches"), switches.length > 0);
        show($("switches-none"), switches.length === 0);
        sync($("switch-rows"), switches, (each) => `${each.began_at} ${each.to}`, switchRow);
    }

    #span(coversS) {
        if (this.chosen !== "auto") return Number(this.chosen);
        return WINDOWS.find((seconds) => seconds >= coversS) ?? WINDOWS.at(-1);
    }

    #lanes(held, ageS, span) {
        const lanes = new Map();
        for (const stretch of held) {
            const bar = barOf(stretch, ageS, span);
            if (!bar) continue;
            const lane = lanes.get(`${stretch.kind} ${stretch.name}`);
            if (lane) lane.bars.push(bar);
            else lanes.set(`${stretch.kind} ${stretch.name}`, { name: stretch.name, bars: [bar] });
        }
        show($("lanes-none"), lanes.size === 0);
        show($("chart"), lanes.size > 0);
        sync(
            $("lanes"),
            [...lanes.values()],
            (lane) => `${lane.bars[0].kind} ${lane.name}`,
            laneRow,
        );
        const told = [...lanes.values()].map(({ name, bars }) => `${name}: ${shareOf(bars)}`);
        attribute($("lanes"), "aria-label", `Over ${seconds(span)}: ${told.join("; ")}`);
    }

    #axis(now, span) {
        const ticks = Array.from({ length: TICKS }, (_, index) => {
            const share = index / (TICKS - 1);
            return {
                index,
                share,
                text: index === TICKS - 1 ? "now" : clock(now - span * 1000 * (1 - share)),
            };
        });
        sync($("axis"), ticks, (tick) => String(tick.index), tickRow);
    }
}

function barOf({ kind, name, state, began_s_ago: began, ended_s_ago: ended }, ageS, span) {
    const from = began + ageS;
    const to = ended === null ? 0 : ended + ageS;
    if (to > span) return null;
    const left = Math.max(0, 1 - from / span);
    const right = 1 - to / span;
    return { kind, name, state, left, width: right - left, from, to };
}

const shareOf = (bars) => {
    const up = bars.filter(({ state }) => state === "awake" || state === "leased");
    return `${Math.round(100 * up.reduce((sum, bar) => sum + bar.width, 0))} % of the time`;
};

function laneRow() {
    const name = h("span", { class: "lane-name" });
    const track = h("span", { class: "lane-track" });
    const node = h("div", { class: "lane" }, name, track);
    const update = (lane) => {
        say(name, lane.name);
        attribute(name, "title", lane.name);
        // A stretch has no name of its own: those that begin together would be one.
        const bars = lane.bars.map((bar, index) => ({ ...bar, index }));
        sync(track, bars, (bar) => String(bar.index), stretchRow);
    };
    return { node, update };
}

function stretchRow() {
    const node = h("span", { class: "stretch" });
    const update = ({ kind, state, left, width, from, to }) => {
        attribute(node, "data-state", kind === "lease" ? "leased" : state);
        node.style.left = `${(left * 100).toFixed(3)}%`;
        node.style.width = `${(width * 100).toFixed(3)}%`;
        const now = Date.now();
        const until = to ? clockToTheSecond(now - to * 1000) : "now";
        attribute(
            node,
            "title",
            `${WORDS[state] ?? state}: ${clockToTheSecond(now - from * 1000)} to ${until}`,
        );
    };
    return { node, update };
}

function tickRow() {
    const node = h("span", { class: "tick" });
    return { node, update: ({ text }) => say(node, text) };
}

function switchRow() {
    const cells = ["at", "way", "how", "took"].map((name) => h("td", { class: `switch-${name}` }));
    const node = h("tr", {}, ...cells);
    const update = (each) => {
        attribute(node, "data-outcome", each.outcome);
        const [at, way, how, took] = cells;
        say(at, clockToTheSecond(Date.parse(each.began_at)));
        say(way, each.from ? `${each.from} → ${each.to}` : each.to);
        say(how, each.outcome === "ok" ? howOf(each) : each.outcome);
        say(took, tookOf(each));
    };
    return { node, update };
}

const howOf = ({ rung }) => (rung === "start" ? "started" : `woken, was ${rung}`);

function tookOf({ seconds: took, estimate_s: estimate }) {
    return estimate === null ? seconds(took) : `${seconds(took)} (expected ${seconds(estimate)})`;
}
