// Numbers in words.

const thousands = new Intl.NumberFormat("en");

export const number = (value) => thousands.format(Math.round(value));

export function rate(kbps) {
  if (kbps < 1000) return `${Math.round(kbps)} kbit/s`;
  return kbps < 1e6 ? `${(kbps / 1000).toFixed(1)} Mbit/s` : `${(kbps / 1e6).toFixed(2)} Gbit/s`;
}

export function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let unit = 0;
  while (count >= 1024 && unit < units.length - 1) {
    count /= 1024;
    unit += 1;
  }
  return `${unit && count < 100 ? count.toFixed(1) : Math.round(count)} ${units[unit]}`;
}

export function duration(seconds) {
  const minutes = Math.floor(seconds / 60);
  if (minutes < 1) return `${Math.floor(seconds)} s`;
  if (minutes < 60) return `${minutes} min`;
  if (minutes < 1440) return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
  return `${Math.floor(minutes / 1440)} d ${Math.floor(minutes / 60) % 24} h`;
}

export const percent = (share) => `${Math.round(share * 100)} %`;
