/**
 * The prompts sent from this tab, walked with the up and down keys as in a shell.
 */

const KEPT = 50;

/** Values only; owner: the prompt line. */
export class PromptHistory {
  #sent;
  /** Index into #sent; its length stands for the line being typed. */
  #at;
  #draft = "";

  /** @param {string[]} sent oldest first */
  constructor(sent = []) {
    this.#sent = sent.slice(-KEPT);
    this.#at = this.#sent.length;
  }

  /** Oldest first. @returns {readonly string[]} */
  get sent() {
    return this.#sent;
  }

  /** @param {string} text */
  add(text) {
    if (this.#sent.at(-1) !== text) this.#sent = [...this.#sent, text].slice(-KEPT);
    this.#at = this.#sent.length;
    this.#draft = "";
  }

  /** @param {string} typed what the line holds now  @returns {string} what it should hold */
  older(typed) {
    if (this.#at === 0) return typed;
    if (this.#at === this.#sent.length) this.#draft = typed;
    this.#at -= 1;
    return this.#sent[this.#at];
  }

  /** @param {string} typed @returns {string} */
  newer(typed) {
    if (this.#at === this.#sent.length) return typed;
    this.#at += 1;
    return this.#at === this.#sent.length ? this.#draft : this.#sent[this.#at];
  }
}
