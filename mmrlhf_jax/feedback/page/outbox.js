"use strict";
// What was answered but is not acknowledged yet. It lies in the browser's own storage, so that neither a lost
// connection, nor a server that is down, nor a closed tab loses it; it is sent in order, again and again, until
// the server says that it is on its disk. Every entry has a key of its own: sending it twice does no harm.

function randomKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function call(path, body, csrf) {
  const options = { cache: "no-store", credentials: "same-origin" };
  if (body !== undefined) {
    options.method = "POST";
    options.headers = { "content-type": "application/json", "x-csrf-token": csrf };
    options.body = JSON.stringify(body);
  }
  const answer = await fetch(path, options);
  const data = await answer.json().catch(() => ({}));
  if (!answer.ok) {
    const error = new Error(data.error || `the server answered ${answer.status}`);
    error.status = answer.status;
    throw error;
  }
  return data;
}

class Outbox {
  // name: of the place in the browser's storage; csrf: see `call`; onChange(waiting, problem) is called whenever something changed.
  constructor(name, csrf, onChange) {
    this.name = name;
    this.csrf = csrf;
    this.onChange = onChange;
    this.entries = JSON.parse(localStorage.getItem(this.name) || "[]");
    this.sending = false;
    this.delay = 500;
    window.addEventListener("online", () => this.send());
  }

  get size() { return this.entries.length; }

  add(path, body) {
    this.entries.push({ path, body });
    this.keep();
    this.send();
  }

  // Takes an answer back that was never sent; false where the server may have it.
  withdraw(key) {
    const place = this.entries.findIndex((entry) => !entry.tried && entry.body.key === key);
    if (place < 0) return false;
    this.entries.splice(place, 1);
    this.keep();
    return true;
  }

  keep() {
    localStorage.setItem(this.name, JSON.stringify(this.entries));
    this.onChange(this.size, "");
  }

  async send() {
    if (this.sending) return;
    this.sending = true;
    clearTimeout(this.timer);
    let problem = "";
    while (this.entries.length) {
      const { path, body } = this.entries[0];
      this.entries[0].tried = true; // from here on it may arrive, even where no answer does
      localStorage.setItem(this.name, JSON.stringify(this.entries));
      try {
        await call(path, body, this.csrf);
      } catch (error) {
        // 409 and 422: the server has seen it and will never take it, so waiting would help nobody.
        if (error.status !== 409 && error.status !== 422) {
          problem = error.status === 401 || error.status === 403 ? error.message : "offline";
          break;
        }
      }
      this.entries.shift();
      this.delay = 500;
      this.keep();
    }
    this.sending = false;
    if (problem) {
      this.timer = setTimeout(() => this.send(), this.delay);
      this.delay = Math.min(this.delay * 2, 8000);
      this.onChange(this.size, problem);
    }
  }

  // Resolves once everything is acknowledged.
  async empty() {
    while (this.entries.length) await new Promise((done) => setTimeout(done, 50));
  }
}
