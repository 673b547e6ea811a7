// Calls the gateway that served this page, and turns its errors into one kind.

/** What the gateway refused, or that it could not be reached. */
export class ApiError extends Error {
    constructor(message, about = {}) {
        super(message);
        this.name = "ApiError";
        this.status = about.status ?? 0;
        this.code = about.code ?? "connection_failed";
        this.param = about.param ?? null;
        this.retryAfterS = about.retryAfterS ?? null;
        this.shouldRetry = about.shouldRetry ?? true;
        this.requestId = about.requestId ?? null;
    }

    get isAboutKeys() {
        return this.status === 401 || this.status === 403;
    }
}

/** The gateway, as this page may use it. */
export class Api {
    /** @param {import("./keys.js").Keys} keys */
    constructor(keys) {
        this.keys = keys;
        this.isLocked = false; // whether inference needs a key
    }

    /**
     * Send a request; return the answer if it is a good one.
     * @param {string} path
     * @param {{method?: string, body?: Object, scope?: "infer"|"admin", signal?: AbortSignal,
     *   key?: string}} [options]
     * @returns {Promise<Response>}
     * @throws {ApiError}
     */
    async send(path, { method = "GET", body, scope = "infer", signal, key } = {}) {
        const response = await this.#fetch(path, {
            method,
            signal,
            headers: this.#headers(key ?? this.#key(scope), body !== undefined),
            body: body === undefined ? undefined : JSON.stringify(body),
            cache: "no-store",
            credentials: "omit",
            redirect: "error",
        });
        if (response.ok) return response;
        const error = await errorOf(response);
        if (error.status === 401 && scope === "infer" && !this.isLocked) {
            this.isLocked = true;
            if (this.#key(scope)) return this.send(path, { method, body, scope, signal, key });
        }
        throw error;
    }

    /** The same, for answers that are JSON; gives up after ten seconds without a `signal`. */
    async json(path, options = {}) {
        const response = await this.send(path, { signal: AbortSignal.timeout(10_000), ...options });
        return response.json();
    }

    // Where inference is open no key is sent with it: the admin key stays where it is needed.
    #key(scope) {
        if (scope === "admin") return this.keys.get("admin");
        return this.keys.get("infer") || (this.isLocked ? this.keys.get("admin") : "");
    }

    #headers(key, hasBody) {
        const headers = {};
        if (key) headers.authorization = `Bearer ${key}`;
        if (hasBody) headers["content-type"] = "application/json";
        return headers;
    }

    async #fetch(path, options) {
        try {
            return await fetch(path, options);
        } catch (error) {
            if (error.name === "AbortError") throw error;
            if (error.name === "TimeoutError")
                throw new ApiError("The gateway did not answer in time.");
            throw new ApiError("The gateway could not be reached.");
        }
    }
}

async function errorOf(response) {
    const text = await response.text().catch(() => "");
    return apiError(bodyError(text), response);
}

function bodyError(text) {
    try {
        const error = JSON.parse(text).error;
        return typeof error === "object" && error !== null ? error : {};
    } catch {
        return {};
    }
}

/** An error object of the API, as it stands in a body or in an event of a stream. */
export function apiError(error, response, requestId = null) {
    const status = response?.status ?? 0;
    const after = Number(response?.headers.get("retry-after") ?? NaN);
    return new ApiError(String(error.message ?? `The gateway answered ${status}.`), {
        status,
        code: String(error.code ?? "unknown"),
        param: error.param,
        retryAfterS: Number.isFinite(after) ? after : null,
        shouldRetry: response ? response.headers.get("x-should-retry") !== "false" : true,
        requestId: response?.headers.get("x-request-id") ?? requestId,
    });
}
