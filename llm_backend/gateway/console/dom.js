// Builds and renews elements. Text goes in as text: nothing here parses HTML.

const rows = new WeakMap();

/**
 * Make an element.
 * @param {string} tag
 * @param {Object} [props] `class`, `text`, `on` (listeners by event), `data` (dataset); others
 *   are attributes, where true is an empty one and false or null none.
 * @param {...(Node|string|null|undefined|false)} children
 */
export function h(tag, props = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(props)) {
        if (name === "text") node.textContent = value;
        else if (name === "class") node.className = value;
        else if (name === "data") Object.assign(node.dataset, value);
        else if (name === "on") listen(node, value);
        else attribute(node, name, value);
    }
    node.append(...children.filter((child) => child || child === ""));
    return node;
}

function listen(node, listeners) {
    for (const [event, listener] of Object.entries(listeners))
        node.addEventListener(event, listener);
}

/** Set an attribute if it differs; false, null and undefined take it away. */
export function attribute(node, name, value) {
    if (value === false || value === null || value === undefined) node.removeAttribute(name);
    else {
        const text = value === true ? "" : String(value);
        if (node.getAttribute(name) !== text) node.setAttribute(name, text);
    }
}

/** Set the text of an element if it differs, so that selections and screen readers keep still. */
export function say(node, text) {
    if (node.textContent !== text) node.textContent = text;
}

/** Show or hide an element; one that is hidden does not keep the focus. */
export function show(node, visible) {
    if (node.hidden === visible) node.hidden = !visible;
}

/**
 * Let a button be pressed or not. One that may not keeps the focus, which `disabled` would take.
 */
export function enable(button, enabled) {
    attribute(button, "aria-disabled", enabled ? null : "true");
}

addEventListener(
    "click",
    (event) => {
        if (event.target.closest?.("[aria-disabled=true]")) {
            event.preventDefault();
            event.stopImmediatePropagation();
        }
    },
    { capture: true },
);

/**
 * Make the children of `parent` one per item: those of known items are renewed in place, so that
 * focus and selection stay; new ones are created, those of lost items removed.
 * @param {Element} parent
 * @param {Array} items
 * @param {(item: any) => string} keyOf
 * @param {(item: any) => {node: Element, update: (item: any) => void}} create
 */
export function sync(parent, items, keyOf, create) {
    const known = rows.get(parent) ?? new Map();
    const kept = new Map();
    let place = parent.firstElementChild;
    for (const item of items) {
        const key = keyOf(item);
        const row = known.get(key) ?? create(item);
        kept.set(key, row);
        row.update(item);
        if (row.node === place) place = place.nextElementSibling;
        else parent.insertBefore(row.node, place);
    }
    for (const [key, row] of known) if (!kept.has(key)) row.node.remove();
    rows.set(parent, kept);
}

export const $ = (id) => document.getElementById(id);

let announcer = null;

/** Tell people who listen to the page what happened. */
export function announce(text) {
    announcer ??= $("announcer");
    const line = h("p", { text });
    announcer.append(line);
    while (announcer.childElementCount > 20) announcer.firstElementChild.remove();
}
