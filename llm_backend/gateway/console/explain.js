// What an error of the API means for the person at this page, and what to do about it.

import { h } from "./dom.js";
import { seconds } from "./format.js";

const ADVICE = {
    body_too_large: "Take a smaller picture, or a shorter text.",
    conflict: "Change the state first: give a lease back, or wait for what is under way.",
    connection_failed: "Is the gateway running? bash scripts/start_all.sh starts it.",
    context_length_exceeded: "Start a new chat, or shorten the text.",
    engine_error: "The engine's log may say more.",
    engine_gone: "The engine ended while it answered. Ask again: it is started anew.",
    engine_start_failed: "What the engine wrote last says why.",
    engine_timeout: "Ask for fewer tokens, or see in its log whether the engine is stuck.",
    gpu_busy: "Other programs hold the memory: end them, or give the device lease back.",
    insufficient_scope: "This key does not reach so far. Type another one under Keys.",
    invalid_request:
        "The gateway or the model does not take it like this: change what the message names.",
    internal_error: "This is a defect of the gateway: its log has more under the request's id.",
    invalid_api_key: "Type a key under Keys.",
    model_not_active: "Switching is by hand here: load the model with its button first.",
    rate_limit_exceeded: "This key has used up its share for now.",
    server_is_overloaded: "Too many requests wait. Ask again when some of them are served.",
    shutting_down: "The gateway stops or restarts. Ask again when it is back.",
    switch_superseded: "Somebody asked for another model meanwhile.",
    unsupported_by_model: "Choose a model that can do it.",
};

const TAIL = "Last log lines of the engine:";

/** Return what to do about an error, as sentences. */
export function advice(error) {
    const told = ADVICE[error.code];
    const wait =
        error.retryAfterS === null
            ? ""
            : `Waiting helps: try again in ${seconds(error.retryAfterS)}.`;
    const final = !error.shouldRetry && !told ? "The same request will fail again." : "";
    return [told, wait, final].filter(Boolean).join(" ");
}

/** Return an element that shows an error: what, why, what to do, and how the log knows it. */
export function explained(error, ...buttons) {
    const status = error.status ? `${error.status} ` : "";
    const what = advice(error);
    const [message, tail] = error.message.split(TAIL);
    return h(
        "div",
        { class: "explained" },
        h("p", { class: "explained-message", text: message.trim() }),
        tail &&
            h("pre", {
                class: "explained-tail",
                tabindex: "0",
                "aria-label": "Log",
                text: tail.trim(),
            }),
        what && h("p", { class: "explained-advice", text: what }),
        h(
            "p",
            { class: "explained-facts" },
            h("code", { text: `${status}${error.code}` }),
            error.param && h("span", { text: `field ${error.param}` }),
            error.requestId && h("span", { text: `request ${error.requestId}` }),
        ),
        buttons.length > 0 && h("p", { class: "explained-buttons" }, ...buttons),
    );
}
