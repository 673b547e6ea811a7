// One exchange, as the playground shows it.

import { attribute, h, say, show } from "./dom.js";
import { explained } from "./explain.js";
import { age, bytes, seconds } from "./format.js";
import { prose } from "./prose.js";
import { copied } from "./snippets.js";

/**
 * Make the row of an exchange.
 * @param {import("./exchange.js").Exchange} exchange
 * @param {{retry: Function, code: Function, key: Function}} actions
 */
export function turn(exchange, actions) {
    const parts = {
        who: h("h3", { class: "turn-who" }),
        thinking: h("p", { class: "prose" }),
        thought: null,
        said: h("div", { class: "turn-said" }),
        note: h("p", { class: "turn-note" }),
        failure: h("div", { class: "turn-failure", role: "alert" }),
        figures: h("p", { class: "turn-figures" }),
        buttons: buttonsOf(exchange, actions),
        shown: null,
    };
    parts.thought = h(
        "details",
        { class: "turn-thought" },
        h("summary", { text: "Thoughts" }),
        parts.thinking,
    );
    const question = questionOf(exchange.question);
    const answer = h(
        "div",
        { class: "turn-answer" },
        parts.who,
        parts.thought,
        parts.said,
        parts.note,
        parts.failure,
        h("div", { class: "turn-foot" }, parts.figures, parts.buttons),
    );
    const node = h("li", { class: "turn" }, question, answer);
    return { node, update: (next) => renew(node, parts, next, actions) };
}

function questionOf({ text, images }) {
    const pictures = images.map(({ name, url, size }) =>
        h("img", { src: url, alt: `Picture ${name}`, title: `${name}, ${bytes(size)}` }),
    );
    const said = h("div", { class: "turn-said" });
    prose(said, text);
    return h(
        "div",
        { class: "turn-question" },
        h("h3", { class: "turn-who", text: "You" }),
        pictures.length > 0 && h("div", { class: "turn-pictures" }, ...pictures),
        said,
    );
}

function buttonsOf(exchange, actions) {
    const button = (text, label, click) =>
        h("button", { type: "button", class: "quiet", "aria-label": label, text, on: { click } });
    const copy = async ({ target }) => {
        const done = await copied(exchange.text);
        target.textContent = done ? "Copied" : "Not copied";
        setTimeout(() => (target.textContent = "Copy"), 2000);
    };
    return h(
        "span",
        { class: "turn-buttons" },
        button("Copy", "Copy the answer", copy),
        button("curl", "This request as a curl command", () => actions.code(exchange, "curl")),
        button("Python", "This request in Python", () => actions.code(exchange, "python")),
        button("Again", "Ask this again", () => actions.retry(exchange)),
    );
}

function renew(node, parts, exchange, actions) {
    const { state, note, text, thinking, error } = exchange;
    attribute(node, "data-state", state);
    attribute(parts.said, "aria-busy", exchange.isOver ? null : "true");
    say(parts.who, exchange.body.model);
    show(parts.thought, Boolean(thinking));
    say(parts.thinking, thinking);
    prose(parts.said, text);
    say(parts.note, noteOf(state, note, exchange));
    show(parts.note, Boolean(parts.note.textContent));
    say(parts.figures, figuresOf(exchange).join(" · "));
    show(parts.buttons, exchange.isOver);
    if (parts.shown !== error) {
        parts.failure.replaceChildren(
            ...(error ? [explained(error, ...waysOut(exchange, actions))] : []),
        );
        parts.shown = error;
    }
    show(parts.failure, error !== null);
}

function waysOut(exchange, actions) {
    const button = (text, click) =>
        h("button", { type: "button", class: "small", text, on: { click } });
    const again = button("Try again", () => actions.retry(exchange));
    return exchange.error.isAboutKeys
        ? [button("Type a key", () => actions.key(exchange)), again]
        : [again];
}

function noteOf(state, note, exchange) {
    if (state === "waiting") return note || `asking ${exchange.body.model}`;
    if (state === "stopped") return "stopped";
    return note;
}

function figuresOf({
    usage,
    cache,
    finish,
    waited,
    firstTokenS,
    tokensPerS,
    state,
    askedAt,
    endedAt,
    isOver,
}) {
    if (!isOver) return state === "waiting" ? [age((performance.now() - askedAt) / 1000)] : [];
    const queue = waited.filter(({ seconds: each }) => each >= 0.05);
    return [
        firstTokenS !== null && `first token ${seconds(firstTokenS)}`,
        tokensPerS !== null && `${tokensPerS.toFixed(1)} tokens/s`,
        usage && `${usage.prompt_tokens} in, ${usage.completion_tokens} out`,
        `${seconds((endedAt - askedAt) / 1000)} in all`,
        queue.length > 0 &&
            queue.map(({ name, seconds: each }) => `${name} ${seconds(each)}`).join(", "),
        finish === "length" && "cut at max tokens",
        cache === "hit" && "from the cache",
    ].filter(Boolean);
}
