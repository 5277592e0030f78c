/**
 * The few things the views do to the document.  Text goes in through textContent only.
 */

/**
 * @template {Element} T
 * @param {string} id
 * @param {new () => T} kind
 * @returns {T}
 */
export function element(id, kind) {
  const found = document.getElementById(id);
  if (!(found instanceof kind)) throw new Error(`index.html lacks #${id} (${kind.name})`);
  return found;
}

/**
 * Screen readers announce what changes, so nothing is written twice.
 *
 * @param {Element} target
 * @param {string} text
 */
export function write(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

/** @param {Element} target @param {string} name @param {string} value */
export function writeAttribute(target, name, value) {
  if (target.getAttribute(name) !== value) target.setAttribute(name, value);
}

/**
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {string} className
 * @param {string} [text]
 * @returns {HTMLElementTagNameMap[K]}
 */
export function make(tag, className, text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

/**
 * A button that is not in index.html.
 *
 * @param {string} className
 * @param {string} text
 * @param {() => void} onClick
 */
export function button(className, text, onClick) {
  const made = make("button", className, text);
  made.type = "button";
  made.addEventListener("click", onClick);
  return made;
}

/**
 * As many children as items, each kept as long as its item's key: what is being pointed at or
 * has the focus stays where it is.
 *
 * @template T
 * @param {HTMLElement} parent
 * @param {readonly T[]} items
 * @param {(item: T) => string} keyOf
 * @param {(item: T) => HTMLElement} create
 * @param {(child: HTMLElement, item: T) => void} update
 */
export function keyed(parent, items, keyOf, create, update) {
  const kept = new Map(
    [...parent.children].map((child) => [
      /** @type {HTMLElement} */ (child).dataset.key ?? "",
      /** @type {HTMLElement} */ (child),
    ]),
  );
  items.forEach((item, index) => {
    const key = keyOf(item);
    let child = kept.get(key);
    if (child === undefined) {
      child = create(item);
      child.dataset.key = key;
    }
    kept.delete(key);
    if (parent.children[index] !== child) parent.insertBefore(child, parent.children[index] ?? null);
    update(child, item);
  });
  for (const gone of kept.values()) gone.remove();
}
