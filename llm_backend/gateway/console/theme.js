// Runs before the first paint, so it is no module: a theme that was chosen must not flash.
(() => {
    const KEY = "llm-backend.theme";
    const THEMES = ["auto", "light", "dark"];
    const root = document.documentElement;

    function chosen() {
        try {
            const theme = localStorage.getItem(KEY);
            return THEMES.includes(theme) ? theme : "auto";
        } catch {
            return "auto"; // the browser keeps nothing
        }
    }

    function apply(theme) {
        root.dataset.theme = theme;
        const button = document.getElementById("theme");
        if (button) {
            document.getElementById("theme-name").textContent = theme;
            button.setAttribute("aria-label", `Theme: ${theme}. Change it.`);
        }
    }

    function next() {
        const theme = THEMES[(THEMES.indexOf(root.dataset.theme) + 1) % THEMES.length];
        try {
            localStorage.setItem(KEY, theme);
        } catch {
            // It holds until the page is left.
        }
        apply(theme);
    }

    apply(chosen());
    addEventListener("DOMContentLoaded", () => {
        apply(root.dataset.theme);
        document.getElementById("theme").addEventListener("click", next);
    });
})();
