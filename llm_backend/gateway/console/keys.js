// The two keys that a person may type: kept by this tab alone, sent as a header, never as a cookie.

import { $, say, show } from "./dom.js";

const NAMES = { admin: "llm-backend.admin-key", infer: "llm-backend.infer-key" };

/** Keys by scope; `change` is told when one was typed or forgotten. */
export class Keys extends EventTarget {
    get(scope) {
        return sessionStorage.getItem(NAMES[scope]) ?? "";
    }

    set(scope, key) {
        if (key) sessionStorage.setItem(NAMES[scope], key);
        else sessionStorage.removeItem(NAMES[scope]);
        this.dispatchEvent(new Event("change"));
    }
}

/** The dialog in which keys are typed. */
export class KeyDialog {
    /**
     * @param {Keys} keys
     * @param {(scope: string, key: string) => Promise<string|null>} check Asks the gateway about a
     *   key; answers what is wrong with it.
     */
    constructor(keys, check) {
        this.keys = keys;
        this.check = check;
        this.dialog = $("keys");
        this.waiting = [];
        $("keys-form").addEventListener("submit", (event) => this.#save(event));
        $("keys-open").addEventListener("click", () => this.open());
        $("keys-cancel").addEventListener("click", () => this.dialog.close());
        $("keys-forget").addEventListener("click", () => this.#forget());
        this.dialog.addEventListener("close", () => this.#closed());
        keys.addEventListener("change", () => this.render());
        this.render();
    }

    /**
     * Ask for a key.
     * @param {string} [why] What it is needed for.
     * @param {string} [scope] Which: `admin` or `infer`.
     * @returns {Promise<boolean>} Whether one was given.
     */
    open(why = "", scope = "admin") {
        say($("keys-why"), why);
        show($("keys-why"), Boolean(why));
        show($("keys-wrong"), false);
        for (const each of ["admin", "infer"]) $(`key-${each}`).value = this.keys.get(each);
        if (!this.dialog.open) this.dialog.showModal();
        $(`key-${scope}`).focus();
        this.given = false;
        return new Promise((resolve) => this.waiting.push(resolve));
    }

    render() {
        const held = ["admin", "infer"].filter((scope) => this.keys.get(scope));
        say($("keys-held"), held.length ? held.join(" + ") : "none");
        show($("keys-forget"), held.length > 0);
    }

    async #save(event) {
        event.preventDefault();
        const typed = { admin: $("key-admin").value.trim(), infer: $("key-infer").value.trim() };
        for (const [scope, key] of Object.entries(typed)) {
            const wrong = key && key !== this.keys.get(scope) ? await this.check(scope, key) : null;
            if (wrong) {
                say($("keys-wrong"), wrong);
                show($("keys-wrong"), true);
                $(`key-${scope}`).focus();
                return;
            }
        }
        this.given = Boolean(typed.admin || typed.infer);
        for (const [scope, key] of Object.entries(typed)) this.keys.set(scope, key);
        this.dialog.close();
    }

    #forget() {
        for (const scope of Object.keys(NAMES)) this.keys.set(scope, "");
        this.dialog.close();
    }

    #closed() {
        for (const scope of Object.keys(NAMES)) $(`key-${scope}`).value = "";
        for (const resolve of this.waiting.splice(0)) resolve(this.given);
    }
}
