import { afterEach, describe, expect, it, vi } from 'vitest';
import { qualified } from '../../src/postgres/identifier.js';
import { planReads, readPositions, readSequenceShapes, type SequencePosition } from '../../src/postgres/sequences.js';
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
});
