// What operators do: each needs the admin key, and each failure is explained on the page.

import { ApiError } from "./api.js";
import { $, announce, show } from "./dom.js";
import { explained } from "./explain.js";

const WHY = "That needs the admin key.";

/** Runs requests with the admin key; asks for it where it is missing or wrong. */
export class Admin {
    /**
     * @param {import("./api.js").Api} api
     * @param {import("./keys.js").Keys} keys
     * @param {import("./keys.js").KeyDialog} dialog
     */
    constructor(api, keys, dialog) {
        this.api = api;
        this.keys = keys;
        this.dialog = dialog;
        $("failure-close").addEventListener("click", () => this.clear());
    }

    get hasKey() {
        return Boolean(this.keys.get("admin"));
    }

    /** Run `work`; return whether it was done. */
    async act(work) {
        if (!this.hasKey && !(await this.#asked(WHY))) return false;
        try {
            await work();
            this.clear();
            return true;
        } catch (error) {
            return this.#failed(error, work);
        }
    }

    async #failed(error, work) {
        if (!(error instanceof ApiError)) throw error;
        if (error.isAboutKeys && (await this.#asked(`${WHY} ${error.message}`)))
            return this.act(work);
        this.show(error);
        return false;
    }

    async #asked(why) {
        return (await this.dialog.open(why, "admin")) && this.hasKey;
    }

    show(error) {
        $("failure-text").replaceChildren(explained(error));
        show($("failure"), true);
    }

    clear() {
        show($("failure"), false);
        $("failure-text").replaceChildren();
    }

    load(model) {
        announce(`Loading ${model}.`);
        return this.act(() =>
            this.api.json("/api/v1/inference/load", {
                method: "POST",
                scope: "admin",
                body: { model, wait: false },
            }),
        );
    }

    unload(model) {
        announce(`Unloading ${model}.`);
        const signal = new AbortController().signal; // a drain may take minutes
        return this.act(() =>
            this.api.json("/api/v1/inference/unload", {
                method: "POST",
                scope: "admin",
                body: { model },
                signal,
            }),
        );
    }

    takeLease(wish) {
        return this.act(() =>
            this.api.json("/api/v1/device/lease", {
                method: "POST",
                scope: "admin",
                body: { ...wish, wait: false },
            }),
        );
    }

    giveLease(id) {
        return this.act(() =>
            this.api.json(`/api/v1/device/lease/${encodeURIComponent(id)}`, {
                method: "DELETE",
                scope: "admin",
            }),
        );
    }
}
