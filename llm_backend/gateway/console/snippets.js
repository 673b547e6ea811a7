// The same request as a command and as a program, to be copied.

import { $, h, say, show } from "./dom.js";

/** The request for curl: the body comes as a here-document, which no quote can break out of. */
export function curl(origin, body, needsKey) {
    const key = needsKey ? ' \\\n  -H "Authorization: Bearer $LLM_API_KEY"' : "";
    return [
        `curl -N ${origin}/v1/chat/completions \\`,
        `  -H 'Content-Type: application/json'${key} \\`,
        "  --data-binary @- <<'JSON'",
        JSON.stringify(body, null, 2),
        "JSON",
        "",
    ].join("\n");
}

/** The request for the official OpenAI SDK for Python. */
export function python(origin, body, needsKey) {
    const fields = Object.entries(body).map(([name, value]) => `    ${name}=${literal(value, 1)},`);
    const key = needsKey ? 'os.environ["LLM_API_KEY"]' : '"none"';
    return [
        ...(needsKey ? ["import os", ""] : []),
        "from openai import OpenAI",
        "",
        `client = OpenAI(base_url="${origin}/v1", api_key=${key})`,
        "stream = client.chat.completions.create(",
        ...fields,
        ")",
        "for chunk in stream:",
        "    if chunk.choices and chunk.choices[0].delta.content:",
        '        print(chunk.choices[0].delta.content, end="", flush=True)',
        "print()",
        "",
    ].join("\n");
}

function literal(value, depth) {
    const indent = "    ".repeat(depth + 1);
    const close = "    ".repeat(depth);
    if (value === null) return "None";
    if (value === true) return "True";
    if (value === false) return "False";
    if (Array.isArray(value)) {
        const items = value.map((item) => `${indent}${literal(item, depth + 1)},\n`);
        return `[\n${items.join("")}${close}]`;
    }
    if (typeof value === "object") {
        const items = Object.entries(value).map(
            ([name, item]) => `${indent}${JSON.stringify(name)}: ${literal(item, depth + 1)},\n`,
        );
        return `{\n${items.join("")}${close}}`;
    }
    return JSON.stringify(value);
}

/** The dialog that shows both. */
export class SnippetDialog {
    constructor() {
        this.dialog = $("snippet");
        this.whole = "";
        $("snippet-close").addEventListener("click", () => this.dialog.close());
        $("snippet-copy").addEventListener("click", () => this.#copy());
        for (const kind of ["curl", "python"]) {
            $(`snippet-${kind}`).addEventListener("click", () => this.#choose(kind));
        }
    }

    /** Show a request. */
    open(body, needsKey, kind = "curl") {
        this.made = {
            curl: curl(location.origin, body, needsKey),
            python: python(location.origin, body, needsKey),
        };
        show($("snippet-key"), needsKey);
        this.#choose(kind);
        if (!this.dialog.open) this.dialog.showModal();
    }

    #choose(kind) {
        this.whole = this.made[kind];
        for (const each of ["curl", "python"]) {
            $(`snippet-${each}`).setAttribute("aria-pressed", String(each === kind));
        }
        const short = abridged(this.whole);
        say($("snippet-text"), short);
        show($("snippet-abridged"), short !== this.whole);
        say($("snippet-copied"), "");
    }

    async #copy() {
        const done = await copied(this.whole, this.dialog);
        say($("snippet-copied"), done ? "Copied." : "The browser does not let this page copy.");
    }
}

/** Shorten pictures, which nobody reads; what is copied is whole. */
const abridged = (text) =>
    text.replace(/(data:[\w/+.-]+;base64,[\w+/=]{20})[\w+/=]{40,}/g, "$1…").slice(0, 100_000);

/** Put a text on the clipboard; return whether that worked. Beyond localhost without TLS there is no API for it. */
export async function copied(text, place = document.body) {
    try {
        await navigator.clipboard.writeText(text);
        return true;
    } catch {
        return copiedBySelection(text, place);
    }
}

function copiedBySelection(text, place) {
    const area = h("textarea", { class: "sr", "aria-hidden": "true", tabindex: "-1" });
    const focused = document.activeElement;
    area.value = text;
    place.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    focused?.focus();
    return done;
}
