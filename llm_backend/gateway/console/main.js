// Puts the page together.

import { Admin } from "./admin.js";
import { Api, ApiError } from "./api.js";
import { Card } from "./card.js";
import { Chat } from "./chat.js";
import { $, announce, attribute, say, show } from "./dom.js";
import { age, clockToTheSecond } from "./format.js";
import { Follower } from "./journey.js";
import { KeyDialog, Keys } from "./keys.js";
import { Leases } from "./leases.js";
import { Live } from "./live.js";
import { Logs } from "./logs.js";
import { Models } from "./models.js";
import { SnippetDialog } from "./snippets.js";
import { Store } from "./store.js";
import { Timeline } from "./timeline.js";

const keys = new Keys();
const api = new Api(keys);
const live = new Live(api);
const store = new Store(api, live);
const follower = new Follower();
const keyDialog = new KeyDialog(keys, wrongWith);
const admin = new Admin(api, keys, keyDialog);
const views = [
    new Card(store, follower),
    new Models(store, live, admin),
    new Timeline(store),
    new Leases(store, live, admin),
    new Logs(api, store, live, admin),
    new Chat(api, store, live, new SnippetDialog(), keyDialog),
];
let version = null;

/** Ask the gateway about a key; return what is wrong with it. */
async function wrongWith(scope, key) {
    const path = scope === "admin" ? "/api/v1/device/lease" : "/status";
    try {
        await api.json(path, { scope, key });
        return null;
    } catch (error) {
        return error instanceof ApiError ? error.message : String(error);
    }
}

const STATES = {
    connecting: () => (live.why ? `${live.why} Trying again…` : "Connecting…"),
    live: () => "Live",
    lost: () => `Lost at ${clockToTheSecond(live.lostAt)}`,
    locked: () => "A key is needed",
};

function renderLink() {
    attribute(document.body, "data-link", live.state);
    say($("link-text"), STATES[live.state]());
    show($("lost"), live.state === "lost");
    show($("locked"), live.state === "locked");
    if (live.state === "lost") {
        const since = (Date.now() - live.lostAt) / 1000;
        say($("lost-since"), clockToTheSecond(live.lostAt));
        say($("lost-for"), age(since));
        say($("lost-why"), live.why);
    }
}

function renderTitle() {
    const name = store.status?.switch?.to ?? store.status?.model;
    const sign = { live: "", connecting: "… ", lost: "✕ ", locked: "" }[live.state];
    const title = `${sign}${store.status?.switch ? "⇄ " : ""}${name ?? "nobody awake"} · llm-backend`;
    if (document.title !== title) document.title = title;
}

// A new gateway may have brought a new page.
function renderVersion() {
    const now = store.health?.gateway.version;
    if (!now) return;
    version ??= now;
    say($("version"), now);
    show($("renewed"), now !== version);
}

function render() {
    renderLink();
    renderTitle();
    renderVersion();
    attribute(document.body, "data-known", store.status !== null);
    for (const view of views) view.render();
}

function narrate(kind, data) {
    if (kind === "state") announce(`${data.model} is ${data.state}.`);
    else if (kind === "lease") announce(`The lease for ${data.reason} is ${data.state}.`);
    else if (kind === "step" && /^(load|launch|stop|warm_up)$/.test(data.step)) {
        announce(`${data.model}: ${data.step.replace("_", " ")}.`);
    }
}

live.addEventListener("notice", ({ kind, data }) => {
    follower.take(kind, data);
    narrate(kind, data);
    render();
});
live.addEventListener("change", () => {
    if (live.state === "live") announce("Connected.");
    else if (live.state === "lost") announce("The connection to the gateway is lost.");
    render();
});
store.addEventListener("change", ({ part }) => {
    if (part === "history") follower.recall(store.history);
    render();
});
keys.addEventListener("change", () => live.hurry());
$("retry").addEventListener("click", () => live.hurry());
$("reload").addEventListener("click", () => location.reload());
$("unlock").addEventListener("click", () => keyDialog.open(live.why, "infer"));
setInterval(render, 1000);
render();
live.run();
document.documentElement.dataset.complete = "yes";
