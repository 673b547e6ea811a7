// Numbers and times as people read them.

const clockTime = new Intl.DateTimeFormat(undefined, {
    hour: "2-digit",
    minute: "2-digit",
    hour12: false,
});
const clockTimeToTheSecond = new Intl.DateTimeFormat(undefined, {
    hour: "2-digit",
    minute: "2-digit",
    second: "2-digit",
    hour12: false,
});

/** A time of day, from milliseconds since 1970. */
export const clock = (at) => clockTime.format(at);
export const clockToTheSecond = (at) => clockTimeToTheSecond.format(at);

/** A duration: 0.42 s, 9.1 s, 48 s, 3 min 20 s, 2 h 5 min. */
export function seconds(value) {
    if (value === null || value === undefined || !Number.isFinite(value)) return "unknown";
    if (value < 1) return `${value.toFixed(2)} s`;
    if (value < 9.95) return `${value.toFixed(1)} s`;
    if (value < 90) return `${Math.round(value)} s`;
    const whole = Math.round(value);
    if (whole < 3600) return joined(Math.floor(whole / 60), "min", whole % 60, "s");
    const minutes = Math.round(whole / 60);
    if (minutes < 2880) return joined(Math.floor(minutes / 60), "h", minutes % 60, "min");
    return `${Math.round(minutes / 1440)} days`;
}

/** How long something has been or will be so: no figures that only flicker. */
export function age(value) {
    if (value < 10) return `${Math.max(0, Math.floor(value))} s`;
    return seconds(value < 600 ? value : Math.round(value / 60) * 60);
}

function joined(large, largeUnit, small, smallUnit) {
    return small ? `${large} ${largeUnit} ${small} ${smallUnit}` : `${large} ${largeUnit}`;
}

/** An amount of memory, from MiB. */
export function memory(mib) {
    if (mib >= 10 * 1024) return `${(mib / 1024).toFixed(1)} GiB`;
    if (mib >= 1024) return `${(mib / 1024).toFixed(2)} GiB`;
    return `${Math.round(mib)} MiB`;
}

export function bytes(count) {
    if (count < 1024) return `${count} B`;
    if (count < 1024 * 1024) return `${(count / 1024).toFixed(0)} kB`;
    return `${(count / 1024 / 1024).toFixed(1)} MB`;
}

export const count = (number, one, many = `${one}s`) => `${number} ${number === 1 ? one : many}`;
