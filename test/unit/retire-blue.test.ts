import { describe, expect, it } from 'vitest';
import { untilBlueAnswers } from '../../activities/retire.js';
import { VerdigrisError } from '../../src/errors.js';
import { RefusedLogin } from '../../src/postgres/session.js';

function away(retryable: boolean): VerdigrisError {
  return new VerdigrisError({
    ...{ type: 'ConnectionFailed', message: "blue can't be reached", nextStep: 'bring it back', retryable },
  });
}

function patience(withinMs: number) {
  const told: string[] = [];
  const onAway = (why: string): void => void told.push(why);
  return { told, withinMs, againMs: 5, signal: new AbortController().signal, onAway };
}

describe("the retirement's part on blue", () => {
  it('is given up when blue stays out of reach, with the reason', async () => {
    const limits = patience(50);
    expect(await untilBlueAnswers(away(true), () => Promise.reject(away(true)), limits)).toBe("blue can't be reached");
    expect(limits.told.length).toBeGreaterThan(1);
  });

  it('is done when blue comes back meanwhile, and at once where it was not away', async () => {
    let tries = 0;
    const later = (): Promise<void> => (tries++ < 3 ? Promise.reject(away(true)) : Promise.resolve());
    expect(await untilBlueAnswers(away(true), later, patience(60_000))).toBeNull();
    expect(tries).toBe(4);
    expect(await untilBlueAnswers(null, () => Promise.reject(away(true)), patience(0))).toBeNull();
  });

  it('needs a person where something is to be mended: it is thrown', async () => {
    for (const error of [away(false), new Error('must be owner of subscription s')]) {
      await expect(untilBlueAnswers(error, () => Promise.resolve(), patience(60_000))).rejects.toBe(error);
    }
  });

  it('needs one where blue refuses the login for all of the time: it is there, and is not left as it is', async () => {
    const refused = new RefusedLogin({
      ...{ type: 'ConnectionFailed', message: 'blue: the password is wrong', nextStep: 'mend it', retryable: true },
    });
    const limits = patience(50);
    await expect(untilBlueAnswers(refused, () => Promise.reject(refused), limits)).rejects.toMatchObject({
      ...{ type: 'ConnectionFailed', retryable: false, what: 'blue: the password is wrong' },
    });
    expect(limits.told.length).toBeGreaterThan(1);
  });

  it('stops with its worker', async () => {
    const stop = new AbortController();
    stop.abort(new Error('shutting down'));
    const limits = { ...patience(60_000), signal: stop.signal };
    await expect(untilBlueAnswers(away(true), () => Promise.resolve(), limits)).rejects.toThrow('shutting down');
  });
});
