// A number over time as a line: an SVG that is drawn anew with every point.

const SVG = "http://www.w3.org/2000/svg";
const POINTS = 150; // five minutes of polls

/** The newest values with their times (milliseconds). */
export class Series {
  #points = [];

  add(time, value) {
    this.#points.push([time, value]);
    if (this.#points.length > POINTS) this.#points.shift();
  }

  get points() {
    return this.#points;
  }
}

/** A line chart of `series`; `describe(value)` says a value in words. */
export class Chart {
  #series;
  #describe;
  #label;
  #line;
  #area;

  constructor(series, label, describe, width = 600, height = 80) {
    this.#series = series;
    this.#describe = describe;
    this.#label = label;
    this.width = width;
    this.height = height;
    this.element = make("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img" });
    this.#area = make("polygon", { class: "area" });
    this.#line = make("polyline", { class: "line" });
    this.element.append(this.#area, this.#line);
    this.draw();
  }

  draw() {
    const points = this.#series.points;
    const values = points.map(([, value]) => value);
    const highest = Math.max(1, ...values) * 1.15;
    const now = points.at(-1)?.[0] ?? 0;
    // However little there is to show, it has the whole width.
    const span = now - (points[0]?.[0] ?? 0) || 1;
    const places = points.map(([time, value]) => [
      (this.width * (1 - (now - time) / span)).toFixed(1),
      (this.height - 2 - (this.height - 4) * (value / highest)).toFixed(1),
    ]);
    this.#line.setAttribute("points", places.map((each) => each.join(",")).join(" "));
    const [first, last] = [places[0], places.at(-1)];
    this.#area.setAttribute(
      "points",
      first ? [[first[0], this.height], ...places, [last[0], this.height]].map((each) => each.join(",")).join(" ") : "",
    );
    const words = values.length
      ? `now ${this.#describe(values.at(-1))}, between ${this.#describe(Math.min(...values))} and ${this.#describe(Math.max(...values))} since this page looks`
      : "nothing known yet";
    this.element.setAttribute("aria-label", `${this.#label}: ${words}`);
  }
}

function make(name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}
