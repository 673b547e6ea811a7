// Loads the page again where a part of it did not come. Browsers drop every download when a network
// interface comes or goes, and each container that starts or stops has one.
(() => {
    const KEY = "llm-backend.loads";
    const MOST = 3;
    const PAUSE_MS = 500;

    function loads() {
        try {
            return Number(sessionStorage.getItem(KEY));
        } catch {
            return MOST; // nobody could count, and it might go on for ever
        }
    }

    function again(event) {
        const part = event.target;
        if (!(part instanceof HTMLScriptElement || part instanceof HTMLLinkElement)) {
            return;
        }
        const done = loads();
        if (done < MOST) {
            sessionStorage.setItem(KEY, String(done + 1));
            setTimeout(() => location.reload(), done * PAUSE_MS);
        } else {
            sessionStorage.removeItem(KEY);
            document.getElementById("link-text").textContent = "Incomplete: load the page again";
        }
    }

    addEventListener("error", again, true);
    addEventListener("load", () => {
        if (document.documentElement.dataset.complete) {
            sessionStorage.removeItem(KEY);
        }
    });
})();
