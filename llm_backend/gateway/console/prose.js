// Shows what a model said: as text, always. Fenced code gets a block of its own, nothing else is read.

import { h, say } from "./dom.js";

const FENCE = /^ {0,3}(```+|~~~+)\s*([\w+#.-]*)[^\n`]*$/;

/** Split a text at its code fences: `{kind: "text"|"code", language, text}` each. */
export function split(text) {
    const parts = [];
    let part = { kind: "text", language: "", lines: [] };
    let fence = "";
    for (const line of text.split("\n")) {
        const found = FENCE.exec(line);
        const closes = fence && line.trim().startsWith(fence) && /^[`~]+$/.test(line.trim());
        if (closes || (!fence && found)) {
            parts.push(part);
            fence = closes ? "" : found[1];
            part = { kind: closes ? "text" : "code", language: closes ? "" : found[2], lines: [] };
        } else part.lines.push(line);
    }
    parts.push(part);
    return parts
        .map(({ kind, language, lines }) => ({ kind, language, text: lines.join("\n") }))
        .filter(({ kind, text: content }) => kind === "code" || content.trim() !== "");
}

/** Show a text in an element; renews what has changed, so that a selection keeps still. */
export function prose(node, text) {
    const parts = split(text);
    parts.forEach((part, index) => {
        let block = node.children[index];
        if (block?.dataset.kind !== part.kind) {
            const fresh = blockOf(part);
            if (block) block.replaceWith(fresh);
            else node.append(fresh);
            block = fresh;
        }
        if (part.kind === "text") say(block, part.text.replace(/^\n+|\n+$/g, ""));
        else {
            say(block.firstElementChild, part.language || "code");
            say(block.lastElementChild.firstElementChild, part.text);
        }
    });
    while (node.childElementCount > parts.length) node.lastElementChild.remove();
}

function blockOf({ kind }) {
    if (kind === "text") return h("p", { class: "prose", data: { kind } });
    const code = h("pre", { tabindex: "0", "aria-label": "Code" }, h("code"));
    return h("div", { class: "code", data: { kind } }, h("span", { class: "code-language" }), code);
}
