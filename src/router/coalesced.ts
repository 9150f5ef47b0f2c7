/**
 * A question that many ask at once and that is sent once: everybody who asks before it is sent shares the answer, and
 * whoever asks while it is on its way waits for the next one. So an answer is never older than the question.
 */
export class Coalesced<T> {
  readonly #send: () => Promise<T>;
  #next: Promise<T> | undefined;
  #sent: Promise<unknown> = Promise.resolve();

  constructor(send: () => Promise<T>) {
    this.#send = send;
  }

  ask(): Promise<T> {
    this.#next ??= this.#sent.then(() => {
      this.#next = undefined;
      const answer = this.#send();
      this.#sent = answer.catch(() => undefined);
      return answer;
    });
    return this.#next;
  }
}
