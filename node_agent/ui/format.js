// Writes figures for people. A figure that is not known is a dash.

const NUMBER = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const MONEY = new Intl.NumberFormat("en-US", { style: "currency", currency: "USD", maximumFractionDigits: 2 });
const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });

export const number = (value) => (value === null || value === undefined ? "–" : NUMBER.format(value));
export const money = (value) => (value === null || value === undefined ? "–" : MONEY.format(value));
export const percent = (share) => `${Math.round(share * 100)} %`;
export const clock = (unixSeconds) => CLOCK.format(new Date(unixSeconds * 1000));
export const plural = (count, one, many = `${one}s`) => `${number(count)} ${count === 1 ? one : many}`;

/** A pause or a token's time: `41 ms`, `1.2 s`. */
export function milliseconds(value) {
  if (value === null || value === undefined) return "–";
  return value < 1000 ? `${value < 10 ? value.toFixed(1) : Math.round(value)} ms` : `${(value / 1000).toFixed(1)} s`;
}

/** A duration in its two largest units: `1:42` under an hour, else `3 h 5 min` or `2 d 4 h`. */
export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 3600) return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}

/** The end of an instance id, which is what tells nodes apart. */
export const shortId = (id) => (id.length > 10 ? `…${id.slice(-6)}` : id);
