// Device leases: give the card to another program for a time, and take it back.

import { $, attribute, enable, h, say, show, sync } from "./dom.js";
import { age, memory } from "./format.js";

/** Draws the leases and the form that takes one. */
export class Leases {
    /**
     * @param {import("./store.js").Store} store
     * @param {import("./live.js").Live} live
     * @param {import("./admin.js").Admin} admin
     */
    constructor(store, live, admin) {
        this.store = store;
        this.live = live;
        this.admin = admin;
        $("lease-form").addEventListener("submit", (event) => this.#take(event));
    }

    render() {
        const { status } = this.store;
        if (!status) return;
        const ageS = this.store.ageS("status");
        const rows = status.leases.map((lease) => ({
            ...lease,
            left: Math.max(0, lease.expires_in_s - ageS),
            enabled: this.live.isLive,
        }));
        show($("leases-none"), rows.length === 0);
        sync(
            $("lease-list"),
            rows,
            (lease) => lease.id,
            () => this.#row(),
        );
        enable($("lease-take"), this.live.isLive);
        this.#devices(status.models);
    }

    #devices(models) {
        const names = new Set(models.filter((m) => m.available).flatMap((m) => m.devices));
        sync($("lease-device"), [...names], (name) => name, deviceOption);
        show($("lease-device-field"), names.size > 1);
    }

    async #take(event) {
        event.preventDefault();
        if (!this.live.isLive) return; // Enter in a field presses no button
        const mib = $("lease-mib").value;
        const wish = {
            device: $("lease-device").value,
            ttl_s: Number($("lease-minutes").value) * 60,
            reason: $("lease-reason").value.trim(),
            ...(mib ? { mib: Number(mib) } : {}),
        };
        if (await this.admin.takeLease(wish)) $("lease-reason").value = "";
    }

    #row() {
        const known = { id: "" };
        const reason = h("strong");
        const text = h("span", { class: "lease-text" });
        const note = h("span", { class: "lease-note" });
        const give = h("button", {
            type: "button",
            class: "small",
            text: "Release",
            on: { click: () => this.admin.giveLease(known.id) },
        });
        const node = h("li", { class: "lease" }, reason, text, give, note);
        const update = (lease) => {
            Object.assign(known, lease);
            attribute(node, "data-lease", lease.id);
            say(reason, lease.reason);
            say(text, textOf(lease));
            say(note, lease.note ?? "");
            show(note, Boolean(lease.note));
            attribute(give, "aria-label", `Release the lease for ${lease.reason}`);
            enable(give, lease.enabled);
        };
        return { node, update };
    }
}

function textOf({ device, mib, ready, left }) {
    const part = mib === null ? `all of ${device}` : `${memory(mib)} of ${device}`;
    return `${part}, ${age(left)} left${ready ? "" : ", being cleared"}`;
}

function deviceOption() {
    const node = h("option");
    const update = (name) => {
        say(node, name);
        attribute(node, "value", name);
    };
    return { node, update };
}
