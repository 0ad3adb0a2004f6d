// The client's key: asked for once, kept in this tab (sessionStorage), sent as a header, never in a URL.

import { byId, setText } from "/ui/dom.js";

const NAME = "synkti-key";

export const key = () => sessionStorage.getItem(NAME) ?? "";
export const headers = () => (key() ? { authorization: `Bearer ${key()}` } : {});

/** Calls onKey when a person has entered a key, and onForget when it is to be forgotten. */
export function init(onKey, onForget) {
  byId("access-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = byId("key").value.trim();
    if (!/^[!-~]{1,200}$/.test(text)) {
      setText(byId("access-error"), "A key has letters, digits and dashes only.");
      return;
    }
    sessionStorage.setItem(NAME, text);
    byId("key").value = "";
    setText(byId("access-error"), "");
    onKey();
  });
  byId("forget-key").addEventListener("click", () => {
    sessionStorage.removeItem(NAME);
    onForget();
  });
}

/** Shows the form. why: what was wrong with the last key, "" for the first one. */
export function ask(why) {
  if (why) sessionStorage.removeItem(NAME);
  setText(byId("access-error"), why);
  byId("access").hidden = false;
  byId("content").hidden = true;
  byId("forget-key").hidden = true;
  byId("key").focus();
}

/** Shows the content. */
export function granted() {
  const wasHidden = byId("content").hidden;
  byId("access").hidden = true;
  byId("content").hidden = false;
  byId("forget-key").hidden = !key();
  if (wasHidden && document.activeElement === byId("key")) byId("main").focus();
}
