// The playground: a conversation with any model.

import { $, announce, attribute, enable, h, say, show, sync } from "./dom.js";
import { Exchange } from "./exchange.js";
import { bytes, count } from "./format.js";
import { turn } from "./turn.js";

const REFRESH_MS = 40;

/** Holds the conversation, and the form that goes on with it. */
export class Chat {
    /**
     * @param {import("./api.js").Api} api
     * @param {import("./store.js").Store} store
     * @param {import("./live.js").Live} live
     * @param {import("./snippets.js").SnippetDialog} snippets
     * @param {import("./keys.js").KeyDialog} keyDialog
     */
    constructor(api, store, live, snippets, keyDialog) {
        Object.assign(this, { api, store, live, snippets, keyDialog });
        this.exchanges = [];
        this.pictures = [];
        this.timer = null;
        this.isChosen = false;
        $("ask").addEventListener("submit", (event) => this.#submit(event));
        $("stop").addEventListener("click", () => this.#stop());
        $("new-chat").addEventListener("click", () => this.#clear());
        $("as-code").addEventListener("click", () => this.#showDraft());
        $("chat-model").addEventListener("change", () => this.#choose());
        this.#listenToPrompt();
        this.#listenToPictures();
    }

    get #current() {
        const last = this.exchanges.at(-1);
        return last && !last.isOver ? last : null;
    }

    render() {
        const { models, status } = this.store;
        if (!models || !status) return;
        const able = models.data.filter((model) => model.capabilities.includes("chat"));
        sync($("chat-model"), able, (model) => model.id, option);
        if (!this.isChosen && able.length) {
            const first = [status.model, status.default].find((id) =>
                able.some((m) => m.id === id),
            );
            $("chat-model").value = first ?? able[0].id;
        }
        this.#hint(able.find((model) => model.id === $("chat-model").value));
        if (this.#current) this.#renderTurns();
        this.#buttons();
    }

    #choose() {
        this.isChosen = true;
        this.render();
    }

    #hint(model) {
        if (!model) return;
        const isAwake = model.residency === "awake" || this.store.status.model === model.id;
        const hints = [
            !isAwake && "not awake: asking brings it up",
            this.pictures.length > 0 &&
                !model.capabilities.includes("vision") &&
                "not known to read pictures",
        ];
        say($("chat-hint"), hints.filter(Boolean).join(" · "));
    }

    #buttons() {
        const isBusy = this.#current !== null;
        show($("stop"), isBusy);
        show($("send"), !isBusy);
        enable($("send"), this.live.isLive);
        enable($("new-chat"), this.exchanges.length > 0);
    }

    // Asking

    #listenToPrompt() {
        $("prompt").addEventListener("keydown", (event) => {
            if (event.isComposing) return;
            if (event.key === "Enter" && !event.shiftKey) {
                event.preventDefault();
                $("ask").requestSubmit();
            } else if (event.key === "Escape" && this.#current) this.#stop();
        });
        $("prompt").addEventListener("input", grow);
    }

    #submit(event) {
        event.preventDefault();
        const text = $("prompt").value.trim();
        if (this.#current || !this.live.isLive || !(text || this.pictures.length)) return;
        const exchange = new Exchange({ text, images: this.pictures });
        $("prompt").value = "";
        grow({ target: $("prompt") });
        this.pictures = [];
        this.#renderPictures();
        this.#ask(exchange);
    }

    async #ask(exchange) {
        this.exchanges = [...this.exchanges.filter((each) => each !== exchange), exchange];
        announce(`Asking ${$("chat-model").value}.`);
        await exchange.run(this.api, this.#body(exchange), () => this.#soon());
        this.#renderTurns();
        announce(ENDINGS[exchange.state](exchange));
        this.store.want("status");
    }

    #body(exchange) {
        const temperature = $("temperature").value;
        const maxTokens = $("max-tokens").value;
        return {
            model: $("chat-model").value,
            messages: this.#messages(exchange),
            ...(temperature ? { temperature: Number(temperature) } : {}),
            ...(maxTokens ? { max_tokens: Number(maxTokens) } : {}),
            stream: true,
            stream_options: { include_usage: true },
        };
    }

    // What was never answered is not told to the model again.
    #messages(exchange) {
        const system = $("system").value.trim();
        const before = this.exchanges.filter((each) => each !== exchange && each.text);
        return [
            ...(system ? [{ role: "system", content: system }] : []),
            ...before.flatMap((each) => [each.message, { role: "assistant", content: each.text }]),
            exchange.message,
        ];
    }

    #stop() {
        this.#current?.stop();
        $("prompt").focus();
    }

    #clear() {
        this.#current?.stop();
        this.exchanges = [];
        this.#renderTurns();
        $("prompt").focus();
    }

    #showDraft() {
        const draft = new Exchange({
            text: $("prompt").value.trim() || "Hello",
            images: this.pictures,
        });
        this.snippets.open(this.#body(draft), this.api.isLocked);
    }

    // Showing

    #soon() {
        this.timer ??= setTimeout(() => this.#renderTurns(), REFRESH_MS);
    }

    #renderTurns() {
        clearTimeout(this.timer);
        this.timer = null;
        const view = $("turns");
        const follows = view.scrollHeight - view.scrollTop - view.clientHeight < 80;
        sync(
            view,
            this.exchanges,
            (each) => each,
            (each) => turn(each, this.#actions()),
        );
        show($("turns-none"), this.exchanges.length === 0);
        this.#buttons();
        if (follows) view.scrollTop = view.scrollHeight;
    }

    #actions() {
        return {
            retry: (exchange) => this.#current || this.#ask(exchange),
            code: (exchange, kind) => this.snippets.open(exchange.body, this.api.isLocked, kind),
            key: (exchange) => this.#withKey(exchange),
        };
    }

    async #withKey(exchange) {
        if (await this.keyDialog.open("Inference needs a key here.", "infer")) this.#ask(exchange);
    }

    // Pictures

    #listenToPictures() {
        $("attach").addEventListener("click", () => $("files").click());
        $("files").addEventListener("change", async ({ target }) => {
            await this.#attach([...target.files]);
            target.value = "";
        });
        $("prompt").addEventListener("paste", (event) => {
            const files = [...event.clipboardData.files];
            if (files.length) event.preventDefault();
            this.#attach(files);
        });
        $("chat").addEventListener("dragover", (event) => event.preventDefault());
        $("chat").addEventListener("drop", (event) => {
            event.preventDefault();
            this.#attach([...event.dataTransfer.files]);
        });
    }

    async #attach(files) {
        const pictures = files.filter((file) => file.type.startsWith("image/"));
        for (const file of pictures) {
            this.pictures = [
                ...this.pictures,
                { name: file.name, size: file.size, url: await dataUrl(file) },
            ];
        }
        if (pictures.length) announce(`${count(this.pictures.length, "picture")} attached.`);
        this.#renderPictures();
    }

    #renderPictures() {
        show($("pictures"), this.pictures.length > 0);
        $("pictures").replaceChildren(...this.pictures.map((picture) => this.#thumbnail(picture)));
        this.render();
    }

    #thumbnail(picture) {
        const remove = () => {
            this.pictures = this.pictures.filter((each) => each !== picture);
            this.#renderPictures();
            $("prompt").focus();
        };
        const label = `Remove ${picture.name}`;
        return h(
            "li",
            {},
            h("img", { src: picture.url, alt: "" }),
            h("span", { class: "picture-name", text: `${picture.name}, ${bytes(picture.size)}` }),
            h("button", {
                type: "button",
                class: "small",
                "aria-label": label,
                text: "Remove",
                on: { click: remove },
            }),
        );
    }
}

const ENDINGS = {
    done: ({ usage }) =>
        `The answer is complete${usage ? `: ${count(usage.completion_tokens, "token")}` : ""}.`,
    stopped: () => "The answer was stopped.",
    failed: ({ error }) => `The request failed: ${error.message}`,
};

function option() {
    const node = h("option");
    const update = ({ id, capabilities }) => {
        say(node, capabilities.includes("vision") ? `${id} (reads pictures)` : id);
        attribute(node, "value", id);
    };
    return { node, update };
}

function grow({ target }) {
    target.style.height = "auto";
    target.style.height = `${Math.min(target.scrollHeight + 2, 240)}px`;
}

function dataUrl(file) {
    return new Promise((resolve, reject) => {
        const reader = new FileReader();
        reader.onload = () => resolve(reader.result);
        reader.onerror = () => reject(reader.error);
        reader.readAsDataURL(file);
    });
}
