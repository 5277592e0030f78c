/**
 * Draws the statistics: a small plot for each quantity, and a line of facts.
 */

import { element, keyed, make, write, writeAttribute } from "./dom.js";
import { spreadWords, stagesOf, stagesWords } from "./latency.js";
import { linePath, scaleTop, strokesPath } from "./plots.js";
import { plotsOf } from "./statistics.js";

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 120;
const HEIGHT = 30;

/** Owner: the page. */
export class StatisticsView {
  #root = element("statistics", HTMLElement);
  #plots = element("plots", HTMLDivElement);
  #spread = element("way-spread", HTMLParagraphElement);
  #bar = element("way-bar", HTMLDivElement);
  #stages = element("way-stages", HTMLParagraphElement);
  #facts = element("facts", HTMLParagraphElement);
  #toggle = element("statistics-toggle", HTMLButtonElement);

  /**
   * @param {import("./figures.js").Figures} figures
   * @param {number|null} fps     the stream's own rate; null without a stream that plays
   * @param {string[]} facts
   */
  render({ areWanted, kept, ways }, fps, facts) {
    writeAttribute(this.#toggle, "aria-pressed", String(areWanted));
    this.#root.hidden = !areWanted || fps === null;
    if (this.#root.hidden || fps === null) return;
    keyed(this.#plots, plotsOf(kept, fps), ({ name }) => name, create, update);
    this.#renderWays(ways);
    keyed(
      this.#facts,
      facts.map((text, index) => ({ text, key: String(index) })),
      ({ key }) => key,
      () => make("span", ""),
      (child, { text }) => write(child, text),
    );
  }

  /** @param {readonly import("./latency.js").Way[]} ways */
  #renderWays(ways) {
    const last = ways.at(-1);
    const stages = last === undefined ? [] : stagesOf(last);
    write(this.#spread, spreadWords(ways));
    write(this.#stages, stagesWords(stages));
    keyed(
      this.#bar,
      stages,
      ({ name }) => name,
      () => make("span", ""),
      (child, { ms }) => (child.style.flexGrow = String(Math.round(ms))),
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
