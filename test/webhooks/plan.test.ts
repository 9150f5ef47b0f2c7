import { Ajv2020 } from 'ajv/dist/2020.js';
import { describe, expect, it } from 'vitest';
import { planJsonSchema } from '../../src/plan/json-schema.js';
import { lintConnections } from '../../src/plan/lint.js';
import { parsePlan } from '../../src/plan/parse.js';
import { planSchema } from '../../src/plan/schema.js';
import { checkTrafficWebhooks } from '../../src/webhooks/preflight.js';

const base = { name: 'hooks', blue: { connection: 'b' }, green: { connection: 'g' } };
const withHooks = (...webhooks: object[]): object => ({ ...base, traffic: { webhooks } });

describe('traffic.webhooks of a plan', () => {
  it('have defaults', () => {
    expect(planSchema.parse(withHooks({ connection: 'dns' })).traffic.webhooks).toEqual([
      {
        connection: 'dns',
        on: ['stage', 'promote', 'rollback'],
        timeout: '10s',
        deadline: '10m',
        onRefuse: 'pause',
      },
    ]);
    expect(planSchema.parse(base).traffic.webhooks).toBeUndefined();
  });

  it('can not leave the way back out, be named twice, or be an address', () => {
    const refusals: [object, RegExp][] = [
      [withHooks({ connection: 'dns', on: ['stage', 'promote'] }), /write "rollback" too/],
      [withHooks({ connection: 'dns' }, { connection: 'dns', on: ['rollback'] }), /name each webhook once/],
      [withHooks({ connection: 'https://user:secret@host/' }), /a connection is a name, not an address/],
      [withHooks({ connection: 'dns', timeout: '0s' }), /from 100ms to 10m/],
      [withHooks({ connection: 'dns', timeout: '10 s' }), /a number and a unit/],
      [withHooks({ connection: 'dns', timeout: '30d' }), /from 100ms to 10m/],
      [withHooks({ connection: 'dns', on: [] }), /rollback|must not be empty/],
    ];
    for (const [plan, instead] of refusals) {
      const parsed = parsePlan(plan);
      if (!('findings' in parsed)) throw new Error(`accepted: ${JSON.stringify(plan)}`);
      expect(parsed.findings.map((finding) => finding.instead).join()).toMatch(instead);
      expect(JSON.stringify(parsed.findings)).not.toContain('secret');
    }
    const validate = new Ajv2020({ strict: false }).compile(planJsonSchema());
    expect(validate(withHooks({ connection: 'dns', on: ['stage'] }))).toBe(false);
    expect(validate(withHooks({ connection: 'dns', on: ['stage', 'rollback'] }))).toBe(true);
  });

  it('are known to the worker, or it is said where', async () => {
    const plan = planSchema.parse(withHooks({ connection: 'dns-primary' }));
    expect(await lintConnections(plan, new Set(['B', 'G']))).toMatchObject([
      { rule: 'unknown-connection', place: 'traffic.webhooks[0].connection' },
    ]);
    expect(await lintConnections(plan, new Set(['B', 'G', 'DNS_PRIMARY']))).toEqual([]);

    const at = 'VERDIGRIS_CONNECTION_DNS_PRIMARY';
    const found = (environment: Record<string, string>): string[] =>
      checkTrafficWebhooks(plan, environment).map(({ severity, check, message, remedy }) =>
        [severity, check, message, remedy].join(' | '),
      );
    expect(found({})).toEqual([expect.stringMatching(/^error \| traffic-webhook \| .*knows no connection/)]);
    expect(found({ [at]: 'dns.example' })).toEqual([expect.stringMatching(/is not the URL of a webhook/)]);
    const unsigned = found({ [at]: 'https://dns.example/T0P-SECRET' });
    expect(unsigned).toEqual([
      expect.stringMatching(/nothing to sign calls.*set VERDIGRIS_CONNECTION_DNS_PRIMARY_SECRET/),
    ]);
    expect(unsigned.join()).not.toContain('T0P-SECRET');
    expect(found({ [at]: 'https://dns.example/', [`${at}_SECRET`]: 'x'.repeat(32) })).toEqual([]);
    expect(found({ [at]: 'https://me:s%C3%A9cret@dns.example/', [`${at}_SECRET`]: 'x'.repeat(32) })).toEqual([]);
    // No call of it could be sent.
    const malformed = found({ [at]: 'https://me:50%T0P-SECRET@dns.example/', [`${at}_SECRET`]: 'x'.repeat(32) });
    expect(malformed).toEqual([expect.stringMatching(/is not the URL of a webhook.*percent-encoded/)]);
    expect(malformed.join()).not.toContain('T0P-SECRET');
  });
});
