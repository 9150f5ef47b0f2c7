/**
 * The promise's value, or `late` after `ms`. The promise goes on by itself: its later failure is nobody's news.
 */
export async function within<T, L>(promise: Promise<T>, ms: number, late: L): Promise<T | L> {
  promise.catch(() => undefined);
  let timer: NodeJS.Timeout | undefined;
  const timeout = new Promise<L>((resolve) => {
    timer = setTimeout(() => resolve(late), ms);
  });
  try {
    return await Promise.race([promise, timeout]);
  } finally {
    clearTimeout(timer);
  }
}

/** Waits for an answer for so long, then throws what `late` makes. */
export async function answerWithin<T>(ms: number, answer: Promise<T>, late: () => Error): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const cut = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(late()), ms);
  });
  try {
    return await Promise.race([answer, cut]);
  } finally {
    clearTimeout(timer);
  }
}

/**
 * Waits for two things that were begun together until both are over, also where one of them fails.
 *
 * @throws the error of the first one, else that of the other
 */
export async function together<A, B>(first: Promise<A>, other: Promise<B>): Promise<[A, B]> {
  await Promise.allSettled([first, other]);
  return [await first, await other];
}

/** A pause of `from` to `to` milliseconds, different each time, so that those who wait don't come back together. */
export function pause(from: number, to: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, from + Math.random() * (to - from)));
}
