import { afterEach, describe, expect, it, vi } from 'vitest';
import { qualified } from '../../src/postgres/identifier.js';
import { LOCKED_AT_ONCE } from '../../src/postgres/sequence-pieces.js';
import {
  planReads,
  readPositions,
  readSequenceShapes,
  setPositions,
  type SequencePosition,
} from '../../src/postgres/sequences.js';
import { closeSession, openSession, type Session } from '../../src/postgres/session.js';
import { asDatabase, testDatabase, withClient } from '../support/postgres.js';

/* Where sequences stand is read twice: before writers are asked to wait, and while they wait. */

/** More than are read by one statement. */
const UNTOUCHED = 100;

/** What may be done to a sequence between the two, and where it stands then: its last value, and whether it was given out. */
const CHANGES: readonly (readonly [name: string, change: string, stands: string])[] = [
  ['gives_its_first', "SELECT nextval('gives_its_first')", '1 true'],
  ['is_set', "SELECT setval('is_set', 50)", '50 true'],
  ['is_set_and_gives_none', "SELECT setval('is_set_and_gives_none', 60, false)", '60 false'],
  ['is_restarted', 'ALTER SEQUENCE is_restarted RESTART WITH 70', '70 false'],
  [
    'gives_and_is_set_back',
    "SELECT nextval('gives_and_is_set_back'), setval('gives_and_is_set_back', 5, false)",
    '5 false',
  ],
  ['is_made_anew', 'DROP SEQUENCE is_made_anew; CREATE SEQUENCE is_made_anew START 90', '90 false'],
  [
    'is_another',
    'ALTER SEQUENCE is_another RENAME TO was_it; ALTER SEQUENCE stands_at_30 RENAME TO is_another',
    '30 true',
  ],
  ['is_gone', 'DROP SEQUENCE is_gone', ''],
  [
    'in_a_moved_schema',
    "SELECT setval('in_a_moved_schema', 8, false); ALTER SEQUENCE in_a_moved_schema SET SCHEMA other; ALTER SEQUENCE other.here SET SCHEMA public; ALTER SEQUENCE here RENAME TO in_a_moved_schema",
    '40 false',
  ],
];

const SCHEMA = `
  CREATE SCHEMA other; CREATE SEQUENCE other.here START 40;
  DO $$ BEGIN FOR i IN 1..${UNTOUCHED} LOOP EXECUTE format('CREATE SEQUENCE untouched_%s', i); END LOOP; END $$;
  ${CHANGES.map(([name]) => `CREATE SEQUENCE ${name}`).join('; ')};
  CREATE SEQUENCE stands_at_30; SELECT setval('stands_at_30', 30);
  CREATE TABLE emptied (id int GENERATED ALWAYS AS IDENTITY, note text); INSERT INTO emptied (note) VALUES ('a'), ('b')`;

describe.each(['pg15', 'pg18'] as const)('sequences that have given no value yet, %s', (server) => {
  let session: Session;
  let drop: () => Promise<void>;
  let change: (sql: string) => Promise<unknown>;

  const prepared = async () => {
    const own = await testDatabase(server, 'uncalled');
    change = (sql) => withClient(own.config, (client) => client.query(sql));
    drop = () => own.drop();
    await change(SCHEMA);
    session = await openSession(asDatabase(own, 'blue'), { purpose: 'test' });
    const shapes = await readSequenceShapes(session);
    const before = new Map((await readPositions(session, shapes)).map((one) => [qualified(one.name), one]));
    return { shapes, planned: await planReads(session, shapes, before) };
  };

  afterEach(async () => {
    await closeSession(session);
    await drop();
  });

  const stands = (positions: readonly SequencePosition[], name: string): string => {
    const at = positions.find((one) => one.name.schema === 'public' && one.name.name === name);
    return at === undefined ? '' : `${at.lastValue} ${at.isCalled}`;
  };

  it('are read again in two round trips, however many they are', async () => {
    const { shapes, planned } = await prepared();
    const query = vi.spyOn(session, 'query');
    const positions = await readPositions(session, shapes, planned);
    expect(positions).toHaveLength(shapes.length);
    expect(stands(positions, 'untouched_7')).toBe('1 false');
    expect(query.mock.calls.length).toBe(2);
  });

  it('are seen where they stand then, whatever was done to them since, as are those that give none any more', async () => {
    const { shapes, planned } = await prepared();
    for (const [, sql] of CHANGES) await change(sql);
    await change('TRUNCATE emptied RESTART IDENTITY');
    const positions = await readPositions(session, shapes, planned);
    const found = CHANGES.map(([name, sql]) => [name, sql, stands(positions, name)]);
    expect(found).toEqual(CHANGES);
    expect(stands(positions, 'emptied_id_seq')).toBe('1 false');
    expect(stands(positions, 'untouched_7')).toBe('1 false');
    // The same as without a plan.
    expect(await readPositions(session, shapes)).toEqual(positions);
  });

  it('are read and set some thousand at a time: each takes a lock until its transaction ends', async () => {
    const { shapes } = await prepared();
    const many = Array.from({ length: Math.ceil((2.5 * LOCKED_AT_ONCE) / shapes.length) }, () => shapes).flat();
    const query = vi.spyOn(session, 'query');
    const positions = await readPositions(session, many);
    expect(positions.map(({ name }) => name)).toEqual(many.map(({ name }) => name));
    expect(new Set(positions.map(({ lastValue }) => lastValue))).toEqual(new Set([1n, 30n, 40n, 2n]));
    const before = query.mock.calls.length;
    await setPositions(session, positions);
    expect(query.mock.calls.length - before).toBe(3);
    // Each call locks what it names.
    for (const [, values] of query.mock.calls as unknown as (readonly [unknown, readonly unknown[][] | undefined])[])
      expect(values?.[0]?.length ?? 0).toBeLessThanOrEqual(LOCKED_AT_ONCE);

    await session.query('DEALLOCATE ALL');
    const message = query.mockClear();
    const positionOf = new Map(positions.map((one) => [qualified(one.name), { ...one, isCalled: false }]));
    const planned = await planReads(session, many, positionOf);
    expect(planned.flatMap(({ known }) => known)).toHaveLength(many.length);
    for (const [text] of message.mock.calls)
      expect(String(text).match(/ UNION ALL |EXECUTE/g)?.length ?? 0).toBeLessThanOrEqual(LOCKED_AT_ONCE);
    expect(message.mock.calls).toHaveLength(3);
  });
});
