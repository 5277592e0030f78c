/**
 * Draws the statistics: a small plot for each quantity, and a line of facts.
 */

import { element, keyed, make, write, writeAttribute } from "./dom.js";
import { linePath, scaleTop, strokesPath } from "./plots.js";
import { plotsOf } from "./statistics.js";

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 120;
const HEIGHT = 30;

/** Owner: the page. */
export class StatisticsView {
  #root = element("statistics", HTMLElement);
  #plots = element("plots", HTMLDivElement);
  #facts = element("facts", HTMLParagraphElement);
  #toggle = element("statistics-toggle", HTMLButtonElement);

  /**
   * @param {boolean} isWanted
   * @param {import("./statistics.js").Statistics} kept
   * @param {number|null} fps     the stream's own rate; null without a stream that plays
   * @param {string[]} facts
   */
  render(isWanted, kept, fps, facts) {
    writeAttribute(this.#toggle, "aria-pressed", String(isWanted));
    this.#root.hidden = !isWanted || fps === null;
    if (this.#root.hidden || fps === null) return;
    keyed(this.#plots, plotsOf(kept, fps), ({ name }) => name, create, update);
    keyed(
      this.#facts,
      facts.map((text, index) => ({ text, key: String(index) })),
      ({ key }) => key,
      () => make("span", ""),
      (child, { text }) => write(child, text),
    );
  }
}

/** @param {import("./statistics.js").Plot} plot */
function create({ name, lines }) {
  const figure = make("figure", "plot");
  const words = make("figcaption", "");
  words.append(make("span", "quiet", name), make("output", "plot-value"));
  const picture = document.createElementNS(SVG, "svg");
  picture.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  picture.setAttribute("preserveAspectRatio", "none");
  picture.setAttribute("aria-hidden", "true");
  for (const { isSecond } of lines) {
    const path = document.createElementNS(SVG, "path");
    if (isSecond) path.setAttribute("class", "second");
    picture.append(path);
  }
  figure.append(words, picture);
  return figure;
}

/** @param {HTMLElement} figure @param {import("./statistics.js").Plot} plot */
function update(figure, { value, lines, isStrokes, atLeast }) {
  const [words, picture] = figure.children;
  const output = words.lastElementChild;
  if (output !== null) write(output, value);
  const top = scaleTop(lines.map(({ series }) => series), atLeast);
  const draw = isStrokes ? strokesPath : linePath;
  lines.forEach(({ series }, index) => {
    writeAttribute(picture.children[index], "d", draw(series, top, WIDTH, HEIGHT));
  });
}
