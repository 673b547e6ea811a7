// Follows one switch through its stages, from what the gateway tells of each.

const LABELS = {
    drain: (model) => `Let ${model} finish its answers`,
    stop: (model) => `Stop ${model}`,
    sleep_1: (model) => `Put ${model} to sleep`,
    sleep_2: (model) => `Put ${model} to sleep, weights dropped`,
    memory: () => "Wait until the memory is free",
    launch: () => "Launch the engine",
    load: () => "Load the weights",
    warm_up: () => "Try a first token",
    wake_1: (model) => `Wake ${model}`,
    wake_2: (model) => `Wake ${model}, weights anew`,
};
const UPWARD = ["memory", "launch", "load", "warm_up"];
const STEP =
    /^(drain|stop|sleep_[12]|memory|launch|load|warm_up|wake_[12])(_done|_failed|_canary)?$/;

/** A switch; `outcome` is null while it is under way, then `ok`, `failed` or `cancelled`. */
export class Journey {
    constructor({ switch: id, from, to, rung, elapsed_s: elapsedS = 0 }) {
        Object.assign(this, { id: id ?? null, from, to, rung: rung ?? "start" });
        this.stages = [];
        this.outcome = null;
        this.reason = "";
        this.beganAt = performance.now() - elapsedS * 1000;
        this.seconds = null;
        this.progress = null;
    }

    /** A switch that was over before this page was opened, out of the history. */
    static past({ from, to, rung, outcome, seconds, stages }) {
        const journey = new Journey({ from, to, rung });
        for (const [name, took] of Object.entries(stages)) {
            if (!STEP.test(name)) continue;
            const model = isUpward(name) ? to : from;
            journey.stages.push({ ...described(name, model, "done"), seconds: took });
        }
        return Object.assign(journey, { outcome, seconds });
    }

    get isOver() {
        return this.outcome !== null;
    }

    elapsedS(now) {
        return this.seconds ?? (now - this.beganAt) / 1000;
    }

    /** The stages that are still to come, as far as the usual way tells. */
    get ahead() {
        if (this.isOver || !this.to) return [];
        const begun = this.stages.filter(({ name }) => isUpward(name)).map(({ name }) => name);
        if (begun.some((name) => name.startsWith("wake"))) return [];
        if (this.rung !== "start") {
            const wake = `wake_${this.rung.slice(-1)}`;
            const names = begun.length ? [wake] : ["memory", wake];
            return names.map((name) => described(name, this.to, "ahead"));
        }
        const last = Math.max(-1, ...begun.map((name) => UPWARD.indexOf(name)));
        return UPWARD.slice(last + 1).map((name) => described(name, this.to, "ahead"));
    }

    begin(name, model, now) {
        if (this.stages.some((s) => s.state === "now" && s.name === name && s.model === model))
            return;
        this.progress = null;
        this.stages.push({ ...described(name, model, "now"), beganAt: now });
    }

    finish(name, model, state, seconds) {
        const stage = this.stages.findLast((s) => s.name === name && s.model === model);
        if (stage) Object.assign(stage, { state, seconds });
    }

    end(outcome, seconds) {
        Object.assign(this, { outcome, seconds, progress: null });
        for (const stage of this.stages) {
            if (stage.state === "now") stage.state = outcome === "ok" ? "done" : "failed";
        }
    }
}

const isUpward = (name) => UPWARD.includes(name) || name.startsWith("wake");

function described(name, model, state) {
    return { name, model, state, label: LABELS[name](model), seconds: null, beganAt: null };
}

/** Keeps the switch that is under way, or the last one. */
export class Follower {
    constructor() {
        this.journey = null;
    }

    /** Take one notice of the gateway. */
    take(kind, data) {
        if (kind === "snapshot") this.#arrive(data.switch);
        else if (kind === "switch") this.#turn(data);
        else if (this.#concerns(data)) this.#follow(kind, data);
    }

    /** Take the history: it has the last switch, where this page has seen none. */
    recall({ switches }) {
        if (this.journey === null && switches.length) this.journey = Journey.past(switches.at(-1));
    }

    // The page connected amid a switch: what came before in it is not known.
    #arrive(running) {
        if (!running) {
            if (this.journey && !this.journey.isOver) this.journey = null;
            return;
        }
        if (this.journey && !this.journey.isOver && this.journey.to === running.to) return;
        this.journey = new Journey(running);
        const stage = STEP.exec(running.step)?.[1] ?? { draining: "drain" }[running.step];
        const mover = stage && (isUpward(stage) ? running.to : running.from);
        if (mover) this.journey.begin(stage, mover, this.journey.beganAt);
    }

    #turn(data) {
        const { journey } = this;
        if (data.outcome === null) this.journey = new Journey(data);
        else if (
            journey &&
            !journey.isOver &&
            (journey.id === data.switch || journey.id === null)
        ) {
            journey.from ??= data.from;
            journey.end(data.outcome, data.elapsed_s);
        }
    }

    #concerns(data) {
        const { journey } = this;
        if (!journey || !data.switch) return false;
        if (journey.id === null && !journey.isOver) journey.id = data.switch;
        return journey.id === data.switch;
    }

    #follow(kind, data) {
        if (kind === "progress") this.journey.progress = data;
        else if (kind === "step") this.#step(data);
        else if (kind === "state") this.#move(data);
    }

    #move({ model, state, reason }) {
        if (state === "draining" || state === "stopping") {
            if (model !== this.journey.to) this.journey.from ??= model;
        }
        if (state === "draining") this.journey.begin("drain", model, performance.now());
        if (state === "failed") this.journey.reason = reason ?? "";
    }

    #step({ step, model, elapsed_s: seconds }) {
        const found = STEP.exec(step);
        if (!found || this.journey.isOver) return;
        const [, name, end] = found;
        if (!end) this.journey.begin(name, model, performance.now());
        else this.journey.finish(name, model, end === "_done" ? "done" : "failed", seconds);
    }
}
