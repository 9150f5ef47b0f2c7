/** How many texts are remembered, and how long one may be. */
const MOST = 1_000;
const LONGEST = 2_000;

/**
 * Texts of statements of which something is known. An application has few, and each comes again and again: to look one
 * up costs less than to read it anew. When there are too many, all are forgotten.
 */
export class SeenTexts {
  readonly #texts = new Set<string>();

  has(text: string): boolean {
    return this.#texts.has(text);
  }

  add(text: string): void {
    if (text.length > LONGEST) return;
    if (this.#texts.size >= MOST) this.#texts.clear();
    this.#texts.add(text);
  }
}
