import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { failureOf } from '../../activities/context.js';
import { planSchema } from '../../src/plan/schema.js';
import { approvalSecret, approvalUrl } from '../../src/approval/settings.js';
import { databasesOf, knownConnections, secretsOf, webhookOf } from '../../src/worker/connections.js';
import { withoutSecrets } from '../../src/postgres/scrub.js';
import { redactor } from '../../src/worker/redact.js';
import { stepFailed } from '../../src/postgres/migrate/step-failed.js';

const PLAN = planSchema.parse({
  name: 'orders',
  blue: { connection: 'orders_blue' },
  green: { connection: 'orders-green' },
});
const ENVIRONMENT = {
  VERDIGRIS_CONNECTION_ORDERS_BLUE: 'postgres://app:s3cr%40t-blue@db1:5433/orders?sslmode=disable',
  VERDIGRIS_CONNECTION_ORDERS_GREEN: 'postgres://app:other-secret@db2/orders',
  VERDIGRIS_CONNECTION_ORDERS_GREEN_PEER: 'postgres://repl:third-secret@10.0.0.2/orders',
};

describe('connections by name', () => {
  it('are read from the environment, with the address for the other server apart', () => {
    const { blue, green } = databasesOf(PLAN, ENVIRONMENT);
    expect(blue.config).toMatchObject({
      host: 'db1',
      port: 5433,
      user: 'app',
      password: 's3cr@t-blue',
      database: 'orders',
    });
    expect(blue.peerConninfo).toBe(ENVIRONMENT.VERDIGRIS_CONNECTION_ORDERS_BLUE);
    expect(green.peerConninfo).toBe(ENVIRONMENT.VERDIGRIS_CONNECTION_ORDERS_GREEN_PEER);
  });

  it('are read from a file where one is named', () => {
    const folder = mkdtempSync(join(tmpdir(), 'verdigris-test-'));
    try {
      const file = join(folder, 'uri');
      writeFileSync(file, 'postgres://a:b@c/d\n');
      const rest = { ...ENVIRONMENT, VERDIGRIS_CONNECTION_ORDERS_BLUE: undefined };
      const { blue } = databasesOf(PLAN, { ...rest, VERDIGRIS_CONNECTION_ORDERS_BLUE_FILE: file });
      expect(blue.config).toMatchObject({ host: 'c', database: 'd' });
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  it('are read from that file, too, where the variable itself is there and empty', () => {
    const folder = mkdtempSync(join(tmpdir(), 'verdigris-test-'));
    const write = (name: string, text: string): string => {
      writeFileSync(join(folder, name), text);
      return join(folder, name);
    };
    try {
      const secret = 'a secret that is long enough to sign with';
      const environment = {
        ...{ VERDIGRIS_CONNECTION_ORDERS_BLUE: '', VERDIGRIS_CONNECTION_ORDERS_BLUE_PEER: '' },
        VERDIGRIS_CONNECTION_ORDERS_BLUE_FILE: write('blue', 'postgres://a:b@c/d\n'),
        ...{ VERDIGRIS_CONNECTION_ORDERS_GREEN: 'postgres://a:b@g/d', VERDIGRIS_CONNECTION_ORDERS_GREEN_FILE: '' },
        VERDIGRIS_CONNECTION_ORDERS_GREEN_PEER_FILE: write('peer', 'postgres://repl:b@p/d'),
        ...{ VERDIGRIS_CONNECTION_CHAT: 'https://chat.example/x', VERDIGRIS_CONNECTION_CHAT_SECRET: '' },
        VERDIGRIS_CONNECTION_CHAT_SECRET_FILE: write('secret', 'signs calls'),
        ...{ VERDIGRIS_APPROVAL_SECRET: '', VERDIGRIS_APPROVAL_URL: '' },
        VERDIGRIS_APPROVAL_SECRET_FILE: write('approval', secret),
      };
      const { blue, green } = databasesOf(PLAN, environment);
      expect(blue).toMatchObject({ config: { host: 'c' }, peerConninfo: 'postgres://a:b@c/d' });
      expect(green).toMatchObject({ config: { host: 'g' }, peerConninfo: 'postgres://repl:b@p/d' });
      expect(webhookOf('chat', environment)).toEqual({ url: 'https://chat.example/x', secret: 'signs calls' });
      expect(approvalSecret(environment)).toBe(secret);
      expect(approvalUrl(environment)).toBeUndefined();
      expect(webhookOf('chat', { ...environment, VERDIGRIS_CONNECTION_CHAT_SECRET_FILE: '' }).secret).toBeNull();
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  it('are known by their own variable or its file, not by what belongs to them', () => {
    expect(
      knownConnections({
        ...{ VERDIGRIS_CONNECTION_A: 'x', VERDIGRIS_CONNECTION_A_PEER: 'x', VERDIGRIS_CONNECTION_B_FILE: '/b' },
        ...{ VERDIGRIS_CONNECTION_C: '', VERDIGRIS_CONNECTION_D_PEER: 'x', VERDIGRIS_CONNECTION_E_SECRET: 'x' },
        ...{ VERDIGRIS_CONNECTION_F_TOKEN_FILE: '/f', VERDIGRIS_CONNECTION_G_PEER_FILE: '/g' },
      }),
    ).toEqual(['A', 'B']);
  });

  it('give the other server what libpq knows, in its words, and tell what the worker makes nothing of', () => {
    const known = (parameters: string): ReturnType<typeof databasesOf>['blue'] =>
      databasesOf(PLAN, { ...ENVIRONMENT, VERDIGRIS_CONNECTION_ORDERS_BLUE: `postgres://a:b@c/d${parameters}` }).blue;
    for (const [parameters, forPeer, ignored] of [
      ['', '', []],
      ['?sslmode=verify-full&port=7', '?sslmode=verify-full&port=7', []],
      ['?sslmode=no-verify', '?sslmode=require', []],
      ['?uselibpqcompat=true&sslmode=require', '?sslmode=require', []],
      ['?uselibpqcompat=true', '', []],
      ['?ssl=true', '?sslmode=require', []],
      ['?ssl=0', '?sslmode=disable', []],
      ['?ssl=false', '?sslmode=disable', []],
      ['?ssl=1&sslmode=no-verify', '?sslmode=require', []],
      [
        '?options=-c%20x%3Dy&connect_timeout=3',
        '?options=-c%20x%3Dy&connect_timeout=3',
        ['options', 'connect_timeout'],
      ],
      ['?schema=public&application_name=x', '?application_name=x', ['schema', 'application_name']],
    ] as const) {
      const blue = known(parameters);
      expect(blue.peerConninfo, parameters).toBe(`postgres://a:b@c/d${forPeer}`);
      expect(blue.ignoredParameters, parameters).toEqual(ignored);
    }
    expect(known('?ssl=false').config.ssl).toBe(false);
    const peer = 'host=x sslmode=verify-full sslrootcert=/etc/ca.pem';
    const environment = { ...ENVIRONMENT, VERDIGRIS_CONNECTION_ORDERS_BLUE_PEER: peer };
    expect(databasesOf(PLAN, environment).blue.peerConninfo).toBe(peer);
  });

  it('whose certificates can not be read say so, and are not called no URI', () => {
    const withParameters = (parameters: string) => () =>
      databasesOf(PLAN, { ...ENVIRONMENT, VERDIGRIS_CONNECTION_ORDERS_BLUE: `postgres://a:b@c/d?${parameters}` });
    expect(withParameters('sslmode=verify-full&sslrootcert=/none/ca.pem')).toThrow(
      /^a file that sslrootcert.* of VERDIGRIS_CONNECTION_ORDERS_BLUE names can't be read[\s\S]*_PEER/,
    );
    expect(withParameters('uselibpqcompat=true&sslmode=verify-ca')).toThrow(/verify-ca of .* needs an sslrootcert/);
  });

  it('that are unknown are named together with the ones that are known', () => {
    expect(() => databasesOf(PLAN, { VERDIGRIS_CONNECTION_OTHER: 'postgres://x/y' })).toThrow(
      /"orders_blue"; it knows OTHER[\s\S]*VERDIGRIS_CONNECTION_ORDERS_BLUE/,
    );
  });

  it('that are no URI are refused without being quoted', () => {
    const environment = { ...ENVIRONMENT, VERDIGRIS_CONNECTION_ORDERS_BLUE: 'host=db password=hunter22' };
    expect(() => databasesOf(PLAN, environment)).toThrow(/is not a postgres:\/\/ URI/);
    expect(() => databasesOf(PLAN, environment)).not.toThrow(/hunter22/);
  });
});

describe('secrets', () => {
  const redact = redactor(secretsOf(ENVIRONMENT));

  it('are cut out of any text, as they are and as they stand in a URI', () => {
    const text = 'tried s3cr@t-blue, s3cr%40t-blue, other-secret and third-secret';
    expect(redact(text)).toBe('tried ***, ***, *** and ***');
  });

  it('of others are cut out where their form shows them', () => {
    expect(redact('to postgres://joe:pw1@host/db')).toBe('to postgres://joe:***@host/db');
    expect(redact("host=h password=pw1 user=u and password = 'p w' x")).toBe(
      'host=h password=*** user=u and password = *** x',
    );
  });

  it('in the address of a webhook are cut out, also in the forms in which they are sent', () => {
    const environment = {
      VERDIGRIS_CONNECTION_HOOK: 'https://me:s%C3%A9cret@hook.example/p4th',
      VERDIGRIS_CONNECTION_BROKEN: 'https://me:half%word@hook.example/',
    };
    const { url, authorization = '' } = webhookOf('hook', environment);
    expect({ url, authorization }).toEqual({
      url: 'https://hook.example/p4th',
      authorization: `Basic ${Buffer.from('me:sécret').toString('base64')}`,
    });
    const text = `tried ${url} with ${authorization}, sécret, s%C3%A9cret and half%word`;
    expect(redactor(secretsOf(environment))(text)).toBe('tried *** with ***, ***, *** and ***');
  });

  it('never reach the failure that an error becomes', () => {
    const error = Object.assign(new Error('could not connect: password=other-secret'), { code: '42601' });
    const failure = failureOf(error, new AbortController().signal, redact);
    expect(failure.message).not.toContain('other-secret');
    expect(JSON.stringify(failure)).not.toContain('other-secret');
  });

  it.each([
    [
      'host=h password=gehe Leck77 x dbname=shop',
      'invalid connection string syntax: missing "=" after "Leck77" in connection info string\n',
    ],
    [
      "host=h password='gehe'Leck77' dbname=shop",
      'invalid connection string syntax: missing "=" after "Leck77\'" in connection info string\n',
    ],
    [
      'host=h password=a"Leck77 "b Leck77" dbname=shop',
      'invalid connection string syntax: missing "=" after ""b" in connection info string',
    ],
    [
      'host=h password=gehe Leck77=x dbname=shop',
      'ungültige Syntax für Verbindungszeichenkette: ungültige Verbindungsoption »Leck77«',
    ],
    [
      'postgres://app:Leck77/x@h/shop',
      'could not connect to the publisher: invalid integer value "Leck77" for connection option "port"',
    ],
    ['postgres://app:gehe@Leck77/x@h/shop', 'konnte Hostnamen »Leck77« nicht in Adresse übersetzen'],
    [
      'host=h password=gehe Leck77 dbname=shop',
      'syntaxe de la chaîne de connexion invalide : « = » manquant après « Leck77 » dans la chaîne des paramètres',
    ],
    [
      'host=h password=gehe Leck77 dbname=shop',
      'syntaxe invalide : « = » manquant après «\u00a0Leck77\u202f» dans la chaîne des paramètres de connexion',
    ],
    [
      'host=h password=gehe Leck77 dbname=shop',
      'sintaxis de cadena de conexión no válida: falta «=» después de «Leck77» en la cadena de información',
    ],
    ['host=h password=gehe Leck77 dbname=shop', 'пропущено "=" після "Leck77" у рядку інформації про підключення'],
    ['host=h password=gehe Leck77 dbname=shop', '连接信息字符串里的“Leck77”后面缺少"="'],
    ['host=h password=a"Leck77 "b"Leck77" dbname=shop', 'fehlendes »=« nach »"b"Leck77"« in der Zeichenkette'],
    [String.raw`host=h password=gehe Le\ck77 dbname=shop`, 'ungültige Verbindungsoption »Leck77«'],
    ["host='h password=gehe Leck77' dbname=x", 'konnte Hostnamen »h password=gehe Leck77« nicht in Adresse übersetzen'],
    [
      'postgres://app:12/x?Leck77@h/shop',
      'fehlendes Schlüssel/Wert-Trennzeichen »=« in URI-Query-Parameter: »Leck77@h/shop«',
    ],
    ['postgres://app:12/Leck77@h/shop', 'FATAL: database "Leck77@h/shop" does not exist'],
    ['postgres://app:a@x:Leck77@h/shop', 'invalid integer value "Leck77@h" for connection option "port"'],
    ['postgres://app:a@x:Leck77@db1/shop', 'invalid integer value "Leck77@db1" for connection option "port"'],
    ['postgres://app:Leck%2077%/x@h/shop', 'ungültiger Zahlenwert »Leck 77%« für Verbindungsoption »port«'],
  ])('with odd characters, of which libpq quotes a piece, are cut out of what it says: %s', (peerConninfo, said) => {
    const database = { side: 'blue', connection: 'shop_blue', config: { host: 'db1' }, peerConninfo } as const;
    expect(withoutSecrets(new Error(said), [database])).not.toMatch(/Leck/);
  });

  it('are cut out, and what else libpq quotes stays', () => {
    const peerConninfo = 'host=h user=app password=hunter22 dbname=shop sslmode=verify-ful';
    const database = { side: 'blue', connection: 'shop_blue', config: {}, peerConninfo } as const;
    const said = 'invalid sslmode value: "verify-ful"; database "shop" does not exist';
    expect(withoutSecrets(new Error(said), [database])).toBe(said);
    const inFrench = 'valeur sslmode invalide : « verify-ful » ; la base de données « shop » n\'existe pas\n"=" ""';
    expect(withoutSecrets(new Error(inFrench), [database])).toBe(inFrench);
  });
});

describe('a value that PostgreSQL quotes whole', () => {
  const refused = Object.assign(new Error(`invalid input syntax for type integer: "${'x'.repeat(3_000_000)}"`), {
    code: '22P02',
  });

  it.each([
    ['by itself', refused],
    ['of a step', stepFailed('row id = 7 of public.notes', refused, 'mend it')],
  ])('is told by its beginning, since Temporal takes 2 MB of a failure: %s', (_how, error) => {
    const { message } = failureOf(error, new AbortController().signal, redactor([]));
    expect(message.length).toBeLessThan(2_200);
    expect(message).toMatch(/type integer: "xxx.* \.\.\. ?\(22P02\)/);
  });

  it('leaves what is to be done', () => {
    const { message } = failureOf(
      stepFailed('row id = 7', refused, 'mend it'),
      new AbortController().signal,
      redactor([]),
    );
    expect(message).toMatch(/^row id = 7: [^]*\nNext step: mend it$/);
  });
});
