import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { createRouter, signedTokens, type Router } from '../../src/router/index.js';

const SECRET = 'a secret that is long enough';

let router: Router;

// Nothing listens there: a token needs no database.
beforeAll(() => {
  const nowhere = { host: '127.0.0.1', port: 1 };
  router = createRouter({ migration: 'shop', blue: nowhere, green: nowhere });
});

afterAll(() => router.close());

function encoded(user: string, token: string, secret = SECRET): string {
  router.importToken(user, token);
  return signedTokens(secret).encode(router, user) ?? '';
}

test('a token goes out and comes back, in characters that cookies and headers carry as they are', () => {
  const tokens = signedTokens(SECRET);
  fc.assert(
    fc.property(
      fc.uuid(),
      fc.integer({ min: 0, max: 2 ** 31 }),
      fc.integer({ min: 0, max: 2 ** 32 - 1 }),
      (user, epoch, low) => {
        const token = `${epoch}:16/${low.toString(16).toUpperCase()}`;
        const text = encoded(user, token);
        expect(text).toMatch(/^[\w.-]{1,100}$/);
        const another = `${user}-elsewhere`;
        expect(tokens.decode(router, another, text)).toBe(false);
        expect(tokens.decode(router, user, text)).toBe(true);
        expect(router.exportToken(user)).toBe(token);
      },
    ),
    { numRuns: 50 },
  );
});

test("another user's, a changed, a cut, a long and a missing token are refused and change nothing", () => {
  const tokens = signedTokens(SECRET);
  const text = encoded('ada', '7:0/FF');
  const forged = [
    '',
    'x',
    text.replace('7.', '8.'),
    text.slice(0, -1),
    `${text}x`,
    'x'.repeat(10_000),
    text.replace('FF', 'FE'),
  ];
  for (const one of forged) expect(tokens.decode(router, 'ada', one)).toBe(false);
  expect(tokens.decode(router, 'bob', text)).toBe(false);
  expect(tokens.decode(router, 'ada', undefined)).toBe(false);
  expect(tokens.decode(router, 'ada', [text, text])).toBe(false);
  expect(router.exportToken('bob')).toBeUndefined();
  expect(tokens.encode(router, 'nobody')).toBeUndefined();
});

test('a secret can be changed: the first one signs, all are accepted', () => {
  const old = encoded('eve', '1:0/1', 'the secret of yesterday');
  expect(signedTokens([SECRET, 'the secret of yesterday']).decode(router, 'eve', old)).toBe(true);
  expect(signedTokens(SECRET).decode(router, 'eve', old)).toBe(false);
});

test('a short secret is refused', () => {
  expect(() => signedTokens('short')).toThrow(RangeError);
  expect(() => signedTokens([])).toThrow(RangeError);
});
