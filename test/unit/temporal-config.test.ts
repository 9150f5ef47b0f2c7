import { describe, expect, it } from 'vitest';
import { temporalConfig } from '../../src/temporal-config.js';
import { secretsOf } from '../../src/worker/connections.js';
import { redactor } from '../../src/worker/redact.js';

/** No profile of whoever runs the tests is read. */
const NO_FILE = { TEMPORAL_CONFIG_FILE: '/nonexistent/temporal.toml' };

describe('where Temporal is', () => {
  it('is not said by variables that are empty', () => {
    const empty = { TEMPORAL_ADDRESS: '', TEMPORAL_NAMESPACE: '', TEMPORAL_API_KEY: '', TEMPORAL_TLS: '' };
    const { connectionOptions, namespace } = temporalConfig(undefined, { ...NO_FILE, ...empty });
    expect({ ...connectionOptions, namespace }).toEqual({});
  });

  it('is said with a key without what stands around it', () => {
    const { connectionOptions } = temporalConfig(undefined, { ...NO_FILE, TEMPORAL_API_KEY: ' abc-secret\n' });
    expect(connectionOptions).toMatchObject({ apiKey: 'abc-secret', tls: true });
  });

  it.each([
    ['TEMPORAL_API_KEY', /^TEMPORAL_API_KEY, or the api_key of the profile, has a character that can't be sent/],
    ['TEMPORAL_GRPC_META_AUTHORIZATION', /^the header "authorization" has a character that can't be sent/],
  ])('is refused where %s holds what no header can, and the key is not told', (name, told) => {
    const message = (value: string): string => {
      try {
        temporalConfig(undefined, { ...NO_FILE, [name]: value });
        return 'taken';
      } catch (error) {
        return String((error as Error).message);
      }
    };
    expect(message('abc-secret')).toBe('taken');
    for (const value of ['abc-\nsecret', 'abc\u00a0secret']) {
      expect(message(value)).toMatch(told);
      expect(message(value)).not.toContain('secret');
    }
  });
});

it('keys of Temporal are cut out of what leaves the worker, in JSON as well', () => {
  const redact = redactor(
    secretsOf({
      TEMPORAL_API_KEY: 'abc-secret\n',
      TEMPORAL_GRPC_META_AUTHORIZATION: 'Bearer "odd\\secret"',
      VERDIGRIS_CONNECTION_A: 'postgres://u:pa%22ss-secret@h/d',
    }),
  );
  const said = 'sent abc-secret, Bearer "odd\\secret" and pa"ss-secret';
  expect(redact(said)).not.toContain('secret');
  expect(redact(JSON.stringify({ said }))).not.toContain('secret');
});
