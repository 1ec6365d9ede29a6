// Answers that are yet to reach the server: kept in this browser until it has acknowledged them, sent in their order,
// each under a key that makes a second arrival harmless.
const PAUSES = [500, 1000, 2000, 5000, 10000];

export class Queue {
  constructor(name, send, told) {
    this.name = name;
    this.send = send; // (path, body) => Response, or a rejection where nobody answers
    this.told = told; // called whenever something has changed
    this.items = this.#read();
    this.online = true;
    this.tries = 0;
    this.timer = null;
    this.busy = false;
    this.trouble = "";
    addEventListener("online", () => this.flush());
    addEventListener("offline", () => { this.online = false; this.told(); });
  }

  #read() {
    try {
      const held = JSON.parse(localStorage.getItem(this.name) || "[]");
      return Array.isArray(held) ? held : [];
    } catch { return []; }
  }

  #write() {
    try { localStorage.setItem(this.name, JSON.stringify(this.items)); } catch { /* it is held in memory */ }
    this.told();
  }

  push(path, body) {
    this.items.push({ path, body });
    this.#write();
    this.flush();
  }

  // What waits and was not sent yet can still be dropped; the first one may be on its way.
  drop(question) {
    const place = this.items.findLastIndex((item) => item.path === "/api/answers" && item.body.question === question);
    if (place < 0 || (place === 0 && this.busy)) return false;
    this.items.splice(place, 1);
    this.#write();
    return true;
  }

  holds(question) { return this.items.some((item) => item.body.question === question); }

  async flush() {
    if (this.busy || !this.items.length) return;
    this.busy = true;
    clearTimeout(this.timer);
    try {
      while (this.items.length) {
        const item = this.items[0];
        const reply = await this.send(item.path, item.body);
        const said = await reply.json().catch(() => ({}));
        if (reply.ok) {
          this.online = true;
          this.trouble = "";
          this.tries = 0;
        } else if ([404, 409, 422].includes(reply.status)) {
          // It can never be stored: it is told aloud, and stands in the way of no other.
          this.trouble = `An answer was refused: ${said.error || reply.status}`;
        } else {
          this.trouble = said.error || `The server answers ${reply.status}.`;
          throw new Error(this.trouble);
        }
        this.items.shift();
        this.#write();
        if (said.progress) this.told(said.progress);
      }
    } catch (error) {
      this.online = !(error instanceof TypeError) && error.name !== "TimeoutError";
      const pause = PAUSES[Math.min(this.tries++, PAUSES.length - 1)];
      this.timer = setTimeout(() => this.flush(), pause);
    } finally {
      this.busy = false;
      this.told();
    }
  }
}
