import { edit, type Mutation } from './mutation.js';

/* Rules of rows on their way: triggers, reads of one's own writes, streams, verification, rollback. */

const TRIGGER = 'src/postgres/migrate/up-down-trigger.ts';
const STATE = 'src/postgres/state.ts';

const inTrigger = (name: string) => ({ file: 'test/postgres/trigger.test.ts', name });
const inStreams = (name: string) => ({ file: 'test/postgres/streams.test.ts', name });
const inSaga = (name: string) => ({ file: 'test/unit/saga.test.ts', name });
const inGates = (name: string) => ({ file: 'test/unit/gates-decide.test.ts', name });

export const DATA_RULES: readonly Mutation[] = [
  {
    rule: 'sessions of ours never compute an old column from a new one',
    edits: [
      edit(TRIGGER, "  IF current_setting('verdigris.internal', true) = 'on' THEN", '  IF false THEN'),
      edit(
        TRIGGER,
        "return `current_setting('verdigris.internal', true) IS DISTINCT FROM 'on'${missing.join('')}`;",
        "return `true${missing.join('')}`;",
      ),
    ],
    test: inTrigger('rows that were there are filled'),
  },
  {
    rule: 'an update from blue recomputes only what reads a changed column',
    edits: [edit(TRIGGER, "return [when(conditions.join(' OR '), assignUp(spec, c))];", 'return [assignUp(spec, c)];')],
    test: inTrigger('up/down triggers, pg18'),
  },
  {
    rule: 'the up/down trigger fires in every session, the apply worker included',
    edits: [
      edit(
        'src/postgres/migrate/install-trigger.ts',
        'ENABLE ALWAYS TRIGGER ${ident(TRIGGER_NAME)}`);',
        'ENABLE TRIGGER ${ident(TRIGGER_NAME)}`);',
      ),
    ],
    test: inTrigger('rows that arrive from blue are complete'),
  },
  {
    rule: 'generated columns are never published back',
    edits: [
      edit(
        'src/postgres/migrate/plan-work.ts',
        'return blue.columns.filter((c) => !c.generated && onGreen.has(c.name))',
        'return blue.columns.filter((c) => onGreen.has(c.name) || c.generated)',
      ),
    ],
    test: { file: 'test/postgres/migrate.test.ts', name: 'columns that go back to blue' },
  },
  {
    rule: 'a position that no published transaction reaches is reached by keepalives',
    edits: [
      edit(
        STATE,
        'CONTINUE WHEN coalesce(feed.latest_end_lsn >= upto, false) OR coalesce(feed.applied > upto, false);',
        'CONTINUE WHEN coalesce(feed.applied > upto, false);',
      ),
    ],
    test: inStreams('shows the last write only when every stream'),
  },
  {
    rule: 'a commit that is applied but not visible yet is not read',
    edits: [
      edit(
        STATE,
        `    IF EXISTS (SELECT FROM pg_stat_subscription w CROSS JOIN LATERAL pg_stat_get_activity(w.pid) a
                WHERE w.subid = feed.oid AND w.relid IS NULL AND w.pid IS NOT NULL AND a.backend_xid IS NOT NULL) THEN`,
        '    IF false THEN',
      ),
    ],
    test: { file: 'test/router/visibility.test.ts', name: 'a write that green is committing' },
  },
  {
    rule: 'a user whose commits are not flushed reads blue',
    edits: [
      edit(
        'src/router/commit.ts',
        "return facts.commit === 'off' || lsn === undefined ? 'unknown' : lsn;",
        "return lsn === undefined ? 'unknown' : lsn;",
      ),
    ],
    test: { file: 'test/router/read-your-writes.test.ts', name: 'a user whose commits are not flushed' },
  },
  {
    rule: 'a COMMIT whose answer was lost is told as unknown and never run again',
    edits: [
      edit(
        'src/router/commit.ts',
        'isLinkFailure(error) ? new CommitOutcomeUnknownError(side, error, facts.xid ?? undefined) : error',
        'isLinkFailure(error) ? new NothingSent(error) : error',
      ),
      edit(
        'src/router/commit.ts',
        "import { isLinkFailure, wasNeverSent } from './failure.js';",
        "import { isLinkFailure, NothingSent, wasNeverSent } from './failure.js';",
      ),
    ],
    test: { file: 'test/router/held-writes.test.ts', name: 'COMMIT' },
  },
  {
    rule: 'a refusal that the application swallowed counts: the transaction runs again on the other side',
    edits: [
      edit(
        'src/router/transaction.ts',
        'const metFence = this.#fence !== undefined || fencesMet(this.#client) !== this.#fencesBefore;',
        'const metFence = false;',
      ),
    ],
    test: { file: 'test/router/held-writes.test.ts', name: 'a transaction whose function swallows' },
  },
  {
    rule: 'a refusal that a function on the server swallowed is seen by the router',
    edits: [
      edit(
        'src/router/transaction.ts',
        'const metFence = this.#fence !== undefined || fencesMet(this.#client) !== this.#fencesBefore;',
        'const metFence = this.#fence !== undefined;',
      ),
    ],
    test: { file: 'test/router/sessions.test.ts', name: 'swallows the fence' },
  },
  {
    rule: 'every stream must have brought its marker',
    edits: [
      edit('src/postgres/marker.ts', 'coalesce(count(*) = max(streams), false) AS arrived', 'count(*) > 0 AS arrived'),
    ],
    test: inStreams('is not caught up while one stream'),
  },
  {
    rule: 'every stream must have come so far before green is read',
    edits: [edit(STATE, '  RETURN feeds >= streams;', '  RETURN feeds > 0;')],
    test: inStreams('shows the last write only when every stream'),
  },
  {
    rule: 'publications are made all or none, never completed later',
    edits: [
      edit('src/postgres/streams.ts', '  if (rows.length > 0) throw incomplete(spec.direction, names, rows);\n', ''),
    ],
    test: inStreams('a publication that is missing'),
  },
  {
    rule: 'the way back has the same tables in each stream',
    edits: [edit('src/postgres/streams.ts', '      spec.like,\n', '      undefined,\n')],
    test: inStreams('the way back with two streams'),
  },
  {
    rule: 'a feed that holds back too much WAL is dropped before it fills the disk',
    edits: [edit('src/postgres/retained-wal.ts', 'if (bytes >= limit || ', 'if (')],
    test: inStreams('the way back with two streams'),
  },
  {
    rule: 'a table whose updates would fail on green is refused',
    edits: [
      edit('src/postgres/preflight/replica-identity.ts', '  if (isWidened) {\n', '  if (isWidened !== isWidened) {\n'),
    ],
    test: { file: 'test/postgres/preflight-tables.test.ts', name: 'REPLICA IDENTITY FULL' },
  },
  {
    rule: 'an owner from whom policies would hide rows on green is refused',
    edits: [
      edit('src/postgres/preflight/owners-and-grants.ts', '      ...(await hiddenRows(pair, user, mend)),\n', ''),
    ],
    test: { file: 'test/long/preflight-rights.long.ts', name: 'an owner that passes by policies' },
  },
  {
    rule: 'whoever owns something on blue and not on green is told before writes move',
    edits: [edit('src/postgres/missing-rights.ts', '(one) => !of.owners.includes(one)', '() => false')],
    test: { file: 'test/postgres/missing-rights.test.ts', name: 'an owner on blue that is none on green' },
  },
  {
    rule: 'a role that a connected one can become has on green what it has on blue',
    edits: [
      edit(
        'src/postgres/missing-rights.ts',
        'const all = await settableRoles(blue);',
        'const all = (await settableRoles(blue)).slice(0, 0);',
      ),
    ],
    test: { file: 'test/postgres/missing-rights.test.ts', name: 'must be settable on green' },
  },
  {
    rule: 'who passes by policies on blue is told before writes move where it does not on green',
    edits: [
      edit(
        'src/postgres/hidden-rows.ts',
        '  if (seesAll(before, was)) return true;\n',
        '  if (seesAll(before, was)) return false;\n',
      ),
    ],
    test: { file: 'test/postgres/missing-rights.test.ts', name: 'sees the same rows on green' },
  },
  {
    rule: 'a setting that decides what statements mean is stored on green before writes move',
    edits: [
      edit(
        'src/postgres/missing-settings.ts',
        'if (wanted.length === 0) return [];',
        'if (wanted.length >= 0) return [];',
      ),
    ],
    test: { file: 'test/postgres/missing-rights.test.ts', name: 'a setting that is stored on blue' },
  },
  {
    rule: 'numbers that are taken from blue in the standby window are told',
    edits: [edit('src/postgres/numbers-taken.ts', '      this.#movedAt = now;\n', '')],
    test: { file: 'test/postgres/rollback-loss.test.ts', name: 'takes numbers from a sequence of blue' },
  },
  {
    rule: 'a refused grant on an object of the server does not end the copy of the schema',
    edits: [
      edit(
        'src/postgres/schema-copy/dump-filter.ts',
        '    if (isGrantOn(statement, filter.system)) return [unlessRefused(statement.text)];\n',
        '',
      ),
    ],
    test: { file: 'test/unit/dump-filter.test.ts', name: 'a grant on an object of the server' },
  },
  {
    rule: 'an extension that something needs is not left out of the copy of the schema',
    edits: [
      edit('src/postgres/schema-copy/left-out-extensions.ts', 'if (needed.length === 0) return left;', 'return left;'),
    ],
    test: { file: 'test/postgres/left-out-extensions.test.ts', name: 'is refused with what needs it' },
  },
  {
    rule: 'the rollback goes on after a compensation that fails',
    edits: [
      edit(
        'workflows/lib/saga.ts',
        '        result.notUndone.push(`${next.name}: ${describe(error)}`);\n',
        '        result.notUndone.push(`${next.name}: ${describe(error)}`);\n        return result;\n',
      ),
    ],
    test: inSaga('goes on after a failure'),
  },
  {
    rule: 'what writes still need is not taken down when they are not back',
    edits: [edit('workflows/lib/saga.ts', 'if (why !== null) {', 'if (next.name === undefined) {')],
    test: inSaga('stops below a critical failure'),
  },
  {
    rule: 'what a stopped activity meets on its way out is no failure of the run',
    edits: [
      edit(
        'workflows/lib/failure.ts',
        "  if (!(error instanceof ActivityFailure) || error.retryState !== 'CANCEL_REQUESTED') return false;",
        '  if (error !== null) return false;',
      ),
    ],
    test: { file: 'test/workflow/lost-while-cancelled.test.ts', name: 'does not fail the run when it watched' },
  },
  {
    rule: 'a rollback is not cancelled by what asked for it',
    edits: [
      edit(
        'workflows/blue-green-migration.ts',
        'await CancellationScope.nonCancellable(() => {\n      // Before a promotion',
        'await CancellationScope.cancellable(() => {\n      // Before a promotion',
      ),
    ],
    test: { file: 'test/long/rollback.long.ts', name: 'a rollback by cancel' },
  },
  {
    rule: 'no requests are no pass',
    edits: [
      edit(
        'src/gates/share.ts',
        "  if (of === 0) {\n    return said('inconclusive'",
        "  if (of === 0) {\n    return said('pass'",
      ),
    ],
    test: inGates('no requests is never a pass'),
  },
  {
    rule: 'what is not a measurement decides nothing',
    edits: [
      edit(
        'src/gates/flaw.ts',
        '  return Number.isSafeInteger(n) && n >= 0;',
        '  return !Number.isInteger(n) || n >= 0;',
      ),
    ],
    test: inGates('what is not a measurement'),
  },
  {
    rule: 'no gate at all shows nothing',
    edits: [
      edit(
        'src/gates/outcome.ts',
        "if (decisions.length === 0) return 'inconclusive';",
        "if (decisions.length === 0) return 'pass';",
      ),
    ],
    test: inGates('together the worst outcome counts'),
  },
  {
    rule: 'one or two unlucky requests fail nothing',
    edits: [edit('src/gates/share.ts', 'const HITS_TO_FAIL = 3;', 'const HITS_TO_FAIL = 1;')],
    test: inGates('two unlucky requests'),
  },
  {
    rule: 'what a slice adds to the evidence is bounded',
    edits: [
      edit('src/gates/persistent-evidence.ts', 'Math.min(mostLog, logRatio(share', 'Math.min(Infinity, logRatio(share'),
    ],
    test: { file: 'test/gates/persistent-evidence.property.test.ts', name: 'never fails one with bad moments' },
  },
  {
    rule: 'a buffer of rows is read into again only when its bytes have been written',
    edits: [
      edit(
        'src/postgres/bootstrap/copy/copy-stream.ts',
        '    this.target.write(bytes, () => {\n      release();\n',
        '    release();\n    this.target.write(bytes, () => {\n',
      ),
    ],
    test: { file: 'test/unit/row-socket.test.ts', name: 'are the same bytes' },
  },
];
