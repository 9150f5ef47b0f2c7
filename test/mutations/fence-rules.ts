import { edit, type Mutation } from './mutation.js';

/* Rules of the fence, and of workers that come late. */

const FENCE = 'src/postgres/fence.ts';
const STATE = 'src/postgres/state.ts';

const inFence = (name: string) => ({ file: 'test/postgres/mistakes-fence.test.ts', name });

export const FENCE_RULES: readonly Mutation[] = [
  {
    rule: 'the flag is not under MVCC: a transaction that began earlier sees it',
    edits: [
      edit(
        STATE,
        '  IF ${FENCE_IS_CLOSED} THEN\n    -- A caller',
        "  IF (SELECT writes_on FROM verdigris.route) <> '${side}' THEN\n    -- A caller",
      ),
    ],
    test: inFence('at every level of isolation'),
  },
  {
    rule: 'the lock is taken before the flag is read',
    edits: [
      edit(
        STATE,
        '  held := ${TAKE_FENCE_LOCK};\n  IF ${FENCE_IS_CLOSED} THEN\n    -- A caller',
        '  IF ${FENCE_IS_CLOSED} THEN\n    -- A caller',
      ),
      edit(
        STATE,
        '  END IF;\n  RETURN NULL;\nEND $fn$;',
        '  END IF;\n  held := ${TAKE_FENCE_LOCK};\n  RETURN NULL;\nEND $fn$;',
      ),
    ],
    test: inFence('a writer that waited for the lock'),
  },
  {
    rule: 'a session in replica mode is stopped',
    edits: [
      edit(
        FENCE,
        '      FOR EACH STATEMENT EXECUTE FUNCTION verdigris.fence_check();\n    ALTER TABLE ONLY ${t} ENABLE ALWAYS TRIGGER ${ident(FENCE_TRIGGER)};',
        '      FOR EACH STATEMENT EXECUTE FUNCTION verdigris.fence_check();',
      ),
    ],
    test: inFence('a session in replica mode'),
  },
  {
    rule: 'a session in replica mode is stopped from TRUNCATE, too',
    edits: [
      edit(
        FENCE,
        '\n    ALTER TABLE ONLY ${t} ENABLE ALWAYS TRIGGER ${ident(TRUNCATE_TRIGGER)};\n    COMMENT ON',
        '\n    COMMENT ON',
      ),
    ],
    test: inFence('a session in replica mode'),
  },
  {
    rule: 'a TRUNCATE of the feed is let in',
    edits: [edit(STATE, "= 'replica' THEN", "= 'replica' AND TG_OP <> 'TRUNCATE' THEN")],
    test: inFence('lets in a TRUNCATE'),
  },
  {
    rule: 'what a trigger writes for a row of the feed is let in',
    edits: [edit(STATE, "= 'replica' THEN", "= 'replica' AND TG_OP = 'TRUNCATE' THEN")],
    test: inFence('lets in what a trigger of the application writes'),
  },
  {
    rule: 'the fence works for roles without any right in schema verdigris',
    edits: [
      edit(
        STATE,
        'verdigris.fence_check() RETURNS trigger\nLANGUAGE plpgsql SECURITY DEFINER SET',
        'verdigris.fence_check() RETURNS trigger\nLANGUAGE plpgsql SET',
      ),
    ],
    test: inFence('a role without any right'),
  },
  {
    rule: 'a table is also kept from TRUNCATE',
    edits: [
      edit(
        FENCE,
        '    CREATE TRIGGER ${ident(TRUNCATE_TRIGGER)} BEFORE TRUNCATE ON ${t}',
        '    CREATE TRIGGER ${ident(TRUNCATE_TRIGGER)} BEFORE INSERT ON ${t}',
      ),
    ],
    test: inFence('green takes no write before the promotion'),
  },
  {
    rule: 'a late worker opens nothing',
    edits: [edit(STATE, 'IF r.epoch IS DISTINCT FROM new_epoch - 1 THEN', 'IF false THEN')],
    test: inFence('opens, closes and decides nothing'),
  },
  {
    rule: 'a late worker closes nothing',
    edits: [
      edit(
        STATE,
        "IF r.epoch IS DISTINCT FROM expected_epoch OR r.writes_on = '${side}' THEN",
        "IF r.writes_on = '${side}' THEN",
      ),
    ],
    test: inFence('opens, closes and decides nothing'),
  },
  {
    rule: 'the side that has writes is not closed from outside a promotion',
    edits: [
      edit(
        STATE,
        "IF r.epoch IS DISTINCT FROM expected_epoch OR r.writes_on = '${side}' THEN",
        'IF r.epoch IS DISTINCT FROM expected_epoch THEN',
      ),
    ],
    test: inFence('opens, closes and decides nothing'),
  },
  {
    rule: 'a late worker sends no reads to green',
    edits: [
      edit(
        STATE,
        "IF r.epoch IS DISTINCT FROM expected_epoch THEN\n    RAISE EXCEPTION 'verdigris: epoch % is over, the route is at %', expected_epoch",
        "IF false THEN\n    RAISE EXCEPTION 'verdigris: epoch % is over, the route is at %', expected_epoch",
      ),
    ],
    test: inFence('opens, closes and decides nothing'),
  },
  {
    rule: 'a late worker arms and disarms nothing',
    edits: [edit(FENCE, 'IF NOT FOUND THEN', 'IF false THEN')],
    test: inFence('arms and disarms nothing'),
  },
  {
    rule: 'a worker that freezes while it arms a table holds no lock',
    edits: [
      edit(
        FENCE,
        "      await session.query(transaction.join('; '));\n",
        '      for (const statement of transaction) await session.query(statement);\n',
      ),
    ],
    test: inFence('freezes while it arms a table'),
  },
  {
    rule: 'a slot is made only while its worker holds the lock of the actor',
    edits: [edit('src/postgres/ownership.ts', 'AND l.pid = ${rows[0]?.pid ?? 0})', 'OR l.pid = ${rows[0]?.pid ?? 0})')],
    test: { file: 'test/postgres/streams.test.ts', name: 'the way back with two streams' },
  },
  {
    rule: 'functions that swallow the refusal of a write are found before the run',
    edits: [edit('src/postgres/preflight/code.ts', "25006: 'others|", "25006: '")],
    test: { file: 'test/postgres/preflight-report.test.ts', name: 'preflight' },
  },
];
