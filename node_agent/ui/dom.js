// Makes and updates elements. Texts become text nodes only: nothing that a node or a model wrote is parsed as HTML.

export const byId = (id) => document.getElementById(id);

/** Makes an element. Of `properties`, `class`, `data-…`, `aria-…`, `role` and `scope` are attributes. */
export function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) setAttribute(element, name, value);
  element.append(...children);
  return element;
}

/** Sets an attribute, removes it for null, and touches nothing where it has the value. */
export function setAttribute(element, name, value) {
  if (value === null || value === undefined || value === false) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, String(value));
}

/** Sets the text of an element, where it differs. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Sets how much of a bar is filled. share: 0 to 1. */
export function setBar(element, share) {
  const width = `${Math.round(Math.min(1, Math.max(0, share)) * 100)}%`;
  if (element.style.width !== width) element.style.width = width;
}

/**
 * Makes the children of `parent` those of `items`, in their order, and keeps the elements of keys that were there.
 * key(item) names an element; make(item) makes one; update(element, item) shows the item.
 */
export function reconcile(parent, items, key, make, update) {
  const kept = (parent.keyed ??= new Map());
  const wanted = new Set();
  let place = parent.firstElementChild;
  for (const item of items) {
    const name = key(item);
    wanted.add(name);
    let element = kept.get(name);
    if (element === undefined) {
      element = make(item);
      kept.set(name, element);
    }
    update(element, item);
    if (element === place) place = place.nextElementSibling;
    else parent.insertBefore(element, place);
  }
  for (const [name, element] of kept) {
    if (!wanted.has(name)) {
      element.remove();
      kept.delete(name);
    }
  }
}
