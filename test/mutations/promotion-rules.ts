import { edit, type Mutation } from './mutation.js';

/* Rules of the hold, the decision and the feeds: design section 6. */

const PROMOTE = 'src/postgres/promote.ts';
const OPENING = 'src/postgres/promotion-opening.ts';
const HOLD = 'src/postgres/promotion-hold.ts';
const FINISH = 'src/postgres/finish-promotion.ts';
const PREPARE = 'src/postgres/prepare-promotion.ts';
const DECISION = 'src/postgres/promotion-decision.ts';
const STATE = 'src/postgres/state.ts';

const inLongHold = (name: string) => ({ file: 'test/long/mistakes-promotion.long.ts', name });
const inHold = (name: string) => ({ file: 'test/postgres/mistakes-promotion.test.ts', name });
const inFeeds = (name: string) => ({ file: 'test/long/mistakes-feeds.long.ts', name });
const inCrash = (name: string) => ({ file: 'test/faults/mistakes/crash.faults.ts', name });

const MARKER_STEP = '            : waitUntilAllIsThere(sessions, promotion, hold, over),\n';
const SLOTS = '      if (promotion.feedBack) await makeSlotsOfTheWayBack(sessions, promotion, hold);\n';
const FEED_BACK = '      if (options.feedBack) await beginFeedBack(oldSide, from, found, patience);\n';
const LOCK = '[lockOutWriters(main, promotion, hold, epoch), limitOthers(sessions, hold)]);\n    });\n';

export const PROMOTION_RULES: readonly Mutation[] = [
  {
    rule: 'the stop position is taken after the last writer has ended',
    edits: [
      edit(
        PROMOTE,
        "    await step('lock',",
        "    await waitUntilAllIsThere(sessions, promotion, hold);\n    await step('lock',",
      ),
      edit(PROMOTE, MARKER_STEP, '            : Promise.resolve(),\n'),
    ],
    test: inHold('the stop position is taken after'),
  },
  {
    rule: 'what has arrived is shown by a row, never by a position',
    edits: [
      edit(
        HOLD,
        '  while (!(await hold.within(markerArrived(sessions.to, direction, token)))) {',
        `  const sent = async (): Promise<boolean> => {
    const { rows } = await sessions.aside.query<{ yes: boolean }>(
      'SELECT bool_and(sent_lsn >= pg_current_wal_flush_lsn()) AS yes FROM pg_stat_replication',
    );
    return rows[0]?.yes === true || (await markerArrived(sessions.to, direction, token));
  };
  while (!(await sent())) {`,
      ),
    ],
    test: inHold('the stop position is taken after'),
  },
  {
    rule: 'the lock is asked for only a short time',
    edits: [edit(HOLD, '`SET LOCAL lock_timeout = ${promotion.lockTimeoutMs}`,', '`SET LOCAL lock_timeout = 0`,')],
    test: inHold('a writer that does not end costs the others'),
  },
  {
    rule: 'a writer that does not end is named',
    edits: [edit(HOLD, '      whoHoldsAdvisoryLock(main, FENCE_LOCK),\n', "      Promise.resolve('somebody'),\n")],
    test: inHold('a writer that does not end before the hold'),
  },
  {
    rule: 'the server ends the hold of a frozen worker',
    edits: [
      edit(
        HOLD,
        '`SET LOCAL idle_in_transaction_session_timeout = ${promotion.maxHoldMs}`',
        '`SET LOCAL idle_in_transaction_session_timeout = 0`',
      ),
      edit(
        'src/postgres/hold.ts',
        'SET LOCAL idle_in_transaction_session_timeout = ${idle}',
        'SET LOCAL idle_in_transaction_session_timeout = 0',
      ),
    ],
    test: inHold('a worker that freezes in the hold'),
  },
  {
    rule: 'the fence is compared with the catalog inside the hold',
    edits: [
      edit(
        HOLD,
        '  if (open.length === 0) return;\n  throw new VerdigrisError({',
        '  if (open.length < 9) return;\n  throw new VerdigrisError({',
      ),
    ],
    test: inHold('a fence that was switched off'),
  },
  {
    rule: 'a partition that was emptied since rows were compared is seen inside the hold',
    edits: [
      edit(HOLD, '  if (comparedPartitions === undefined) return;', '  if (comparedPartitions !== null) return;'),
    ],
    test: inHold('a partition that was emptied since'),
  },
  {
    rule: 'a server that has replaced the one on which rows were compared ends the try',
    edits: [edit(PROMOTE, '  await refuseReplaced(sessions, promotion);\n', '')],
    test: inHold('failed over since rows were compared'),
  },
  {
    rule: 'a server that was started anew since rows were compared ends the try: it may have been put back',
    edits: [
      edit('src/postgres/promotion-readiness.ts', 'return refuseRestarted(whoRestarted(comparedOn, now));', 'return;'),
    ],
    test: inHold('was started anew since'),
  },
  {
    rule: 'a blue that was put back to before the last pass has all rows compared',
    edits: [
      edit(
        'src/postgres/verify/verify-tables.ts',
        "  if (!(await sessions.onBlue((blue) => knowsPass(blue, options.runId, 'pass ended', last.id)))) return null;\n",
        '',
      ),
    ],
    test: { file: 'test/postgres/verify-changed.test.ts', name: 'where blue does not know the last pass' },
  },
  {
    rule: 'a blue that was replaced since its feed was looked at ends the try of the way back',
    edits: [edit('src/postgres/promotion-readiness.ts', '  await refuseOthers?.(main, to);\n', '')],
    test: { file: 'test/postgres/rollback-loss.test.ts', name: 'between the look at the feed and the hold' },
  },
  {
    rule: 'the server ends a frozen worker that asks what was decided',
    edits: [edit(DECISION, '`${BEGIN}; SET LOCAL lock_timeout', '`BEGIN; SET LOCAL lock_timeout')],
    test: inLongHold('a worker that freezes while it asks'),
  },
  {
    rule: 'a table that is new stops the promotion',
    edits: [edit(HOLD, ' UNION ALL ${newTablesSql(knownTables)}`', '`')],
    test: inHold('a fence that was switched off'),
  },
  {
    rule: 'a table that the plan moves and that is not fenced is new, whenever it was made',
    edits: [
      edit(
        'src/postgres/known-tables.ts',
        'table.of_extension || !moved(table) || isFenced.has(qualified(table))',
        'table.of_extension || moved(table) || isFenced.has(qualified(table))',
      ),
    ],
    test: inHold('a table of the plan that was made after'),
  },
  {
    rule: 'a transaction that could write past the fence gives up the try',
    edits: [
      edit(HOLD, '  const suspected = unfencedChanges(locks, promotion);\n', '  const suspected: never[] = [];\n'),
    ],
    test: inHold('a transaction that passes no fence gives up the try'),
  },
  {
    rule: 'nobody is asked to wait while a transaction could write past the fence',
    edits: [edit(PROMOTE, '  await waitForNoUnfencedChanges(sessions.main, promotion);\n', '')],
    test: inHold('is not asked of writers while such a transaction lasts'),
  },
  {
    rule: 'a table that is made counts where its schema may be of the plan',
    edits: [edit('src/postgres/unfenced-changes.ts', ' || locks.some(isOfMovedSchema)', '')],
    test: { file: 'test/postgres/unfenced-changes.test.ts', name: 'is seen: CREATE TABLE public' },
  },
  {
    rule: 'a table of a schema that the plan leaves out counts when it is attached',
    edits: [edit('src/postgres/unfenced-changes.ts', 'fenced.some(({ mode }) => mode === ATTACHED_TO) || ', '')],
    test: { file: 'test/postgres/unfenced-changes.test.ts', name: 'is seen: ALTER TABLE' },
  },
  {
    rule: 'who waits at the fence of one table may have written another one',
    edits: [edit('src/postgres/unfenced-changes.ts', ' && isAllOfOneStatement(fenced)', '')],
    test: { file: 'test/postgres/unfenced-changes.test.ts', name: 'waits at the fence' },
  },
  {
    rule: 'the looks of the hold see what is committed by then',
    edits: [
      edit(HOLD, '[BEGIN_READ_COMMITTED, ...limits', "['BEGIN', ...limits"),
      edit(
        'src/postgres/session.ts',
        "         set_config('default_transaction_isolation', 'read committed', false),\n",
        '',
      ),
    ],
    test: inLongHold('REPEATABLE READ by default'),
  },
  {
    rule: 'the COMMIT that decides notifies nobody',
    edits: [
      edit(
        STATE,
        "green_read_percent = CASE new_side WHEN 'green' THEN 100 ELSE 0 END, opening = NULL, updated_at = clock_timestamp()\n   WHERE migration = of_migration;\n",
        "green_read_percent = CASE new_side WHEN 'green' THEN 100 ELSE 0 END, opening = NULL, updated_at = clock_timestamp()\n   WHERE migration = of_migration;\n  PERFORM pg_notify('${ROUTE_CHANNEL}', '');\n",
      ),
    ],
    test: inLongHold('its COMMIT waits for no notifier'),
  },
  {
    rule: 'routers that listen to the old side are told of the decision',
    edits: [edit(OPENING, 'const told = tellRouters(old);', 'const told = Promise.resolve();')],
    test: inLongHold('its COMMIT waits for no notifier'),
  },
  {
    rule: 'the fence is looked at again once the route is locked',
    edits: [
      edit(
        PROMOTE,
        'checkFence(main, promotion, hold, decideSql(promotion, epoch))',
        'hold.queryInTransaction(main, decideSql(promotion, epoch)).then(() => undefined)',
      ),
    ],
    test: { file: 'test/long/promotion-frozen.long.ts', name: 'frozen before it disarms the fence' },
  },
  {
    rule: 'while a try runs, the lock and the row are taken before the route is believed',
    edits: [
      edit(
        DECISION,
        'if (plain.opening === null && (await isFenceOpen(session))) return',
        'if (await isFenceOpen(session)) return',
      ),
      edit(
        DECISION,
        '  for (let attempt = 1; ; attempt++) {',
        '  if (plain.opening !== null) return { decided: false, epoch: plain.epoch };\n  for (let attempt = 1; ; attempt++) {',
      ),
    ],
    test: inHold('a COMMIT on its way is waited for'),
  },
  {
    rule: 'a flag that is set is believed more than a route that does not say so',
    edits: [
      edit(
        DECISION,
        'if (plain.opening === null && (await isFenceOpen(session))) return',
        'if (plain.opening === null) return',
      ),
    ],
    test: inHold('a COMMIT on its way is waited for'),
  },
  {
    rule: 'the flag is set back only where the route says that nothing was decided',
    edits: [
      edit(
        DECISION,
        'if (route.writesOn === from && !(await isFenceOpen(session))) {',
        'if (!(await isFenceOpen(session))) {',
      ),
    ],
    test: inHold('a COMMIT on its way is waited for'),
  },
  {
    rule: 'half switched is finished: whoever finds a decision opens the new side',
    edits: [edit(PROMOTE, 'openNewSide(actors.to, promotion.migration, epoch);', 'Promise.resolve();')],
    test: inHold('a COMMIT on its way is waited for'),
  },
  {
    rule: 'a COMMIT without an answer is asked about, neither repeated nor given up',
    edits: [
      edit(
        PROMOTE,
        '    return decisionAfterLostAnswer(promotion, error);',
        "    throw promotionBlocked('the answer to COMMIT was lost', error);",
      ),
    ],
    test: inHold('a connection that is lost after the COMMIT'),
  },
  {
    rule: 'a COMMIT without an answer is not taken for done',
    edits: [edit(PROMOTE, '    return decisionAfterLostAnswer(promotion, error);', '    return epoch + 1;')],
    test: inHold('a connection that is lost before the COMMIT'),
  },
  {
    rule: 'a promotion moves writes only in the epoch in which it was asked for',
    edits: [
      edit(
        PROMOTE,
        'promotion.epoch !== decision.epoch) throw overtaken',
        'promotion.epoch > decision.epoch) throw overtaken',
      ),
    ],
    test: inHold('asked for in an epoch that is over'),
  },
  {
    rule: 'a side is opened only after the decision',
    edits: [
      edit(
        PROMOTE,
        "    await step('slots, decision',",
        "    await openNewSide(sessions.to, promotion.migration, epoch + 1);\n    await step('slots, decision',",
      ),
    ],
    test: inHold('killed just before it has been decided'),
  },
  {
    rule: 'never both feeds: the old one has stopped before the reverse one begins',
    edits: [
      edit(FINISH, '    await stopSubscriptions(newSide, oldFeed, patience);\n', ''),
      edit(FINISH, '      await endFeed(newSide, oldSide, oldFeed, to, patience);\n', ''),
      edit(FINISH, FEED_BACK, `${FEED_BACK}      await endFeed(newSide, oldSide, oldFeed, to, patience);\n`),
    ],
    test: inFeeds('the reverse feed does not begin'),
  },
  {
    rule: 'a feed counts as stopped when its worker is gone, not when it is disabled',
    edits: [
      edit('src/postgres/subscription.ts', '(!state.enabled && state.workers === 0)', '!state.enabled'),
      edit(FINISH, '!stopped || idle.includes(false)', '!stopped'),
      edit(FINISH, 'waitUntilInactive(oldSide, name, 30_000)', 'waitUntilInactive(oldSide, name, 0)'),
      edit(FINISH, '  await dropSubscriptions(newSide, feed, patience);\n  await dropSlots(oldSide, feed);\n', ''),
    ],
    test: inFeeds('the reverse feed does not begin'),
  },
  {
    rule: 'origin = none is a second belt against loops',
    edits: [
      edit(
        'src/postgres/subscription.ts',
        "...(version >= 16 && options.publisherVersion >= 16 ? ['origin = none'] : []),",
        '',
      ),
    ],
    test: inFeeds('with origin = none'),
  },
  {
    rule: 'each direction has a marker table of its own',
    edits: [edit('src/postgres/marker.ts', 'return `marker_${direction}`;', "return 'marker_to_green';")],
    test: inFeeds('a marker of the old direction'),
  },
  {
    rule: 'the slot of the way back is made when everything has arrived',
    edits: [edit(PROMOTE, SLOTS, ''), edit(PROMOTE, LOCK, LOCK + SLOTS)],
    test: inFeeds('the slot of the way back begins after'),
  },
  {
    rule: 'a rehearsed slot waits for what nobody waits for: a walwriter, twice',
    edits: [edit(HOLD, 'const REHEARSED_WITHIN_MS = 3_000;', 'const REHEARSED_WITHIN_MS = 250;')],
    test: { file: 'test/postgres/promotion-readiness.test.ts', name: 'pass beside transactions' },
  },
  {
    rule: 'a role of the application that may do less on green keeps the promotion away',
    edits: [edit('activities/promotion-prepare.ts', '    await refuseMissingRights(onBlue, onGreen, ref);\n', '')],
    test: { file: 'test/faults/missing-rights.faults.ts', name: 'a role of the application' },
  },
  {
    rule: 'the slot of the way back is made in the hold, not made earlier and advanced',
    edits: [
      edit(
        'src/postgres/promotion-sessions.ts',
        '    const side = promotion.databases[otherSide(promotion.from)];\n',
        `    const side = promotion.databases[otherSide(promotion.from)];
    await to.query("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", [slot]);
`,
      ),
      edit(
        'src/postgres/promotion-sessions.ts',
        "`SELECT pg_create_logical_replication_slot(${literal(slot)}, 'pgoutput') WHERE ${actor}`",
        '`SELECT pg_replication_slot_advance(${literal(slot)}, pg_current_wal_flush_lsn()) WHERE ${actor}`',
      ),
      edit(HOLD, '  await dropEarlySlots(sessions.to, promotion);\n', ''),
    ],
    test: inCrash('green is killed right after the promotion'),
  },
  {
    rule: 'what has arrived is on the disk of the new side before it is decided',
    edits: [edit(PROMOTE, '      await flushWhatHasArrived(sessions, promotion, hold);\n', '')],
    test: inCrash('blue is killed in the way back'),
  },
  {
    rule: 'commits of ours are durable whatever the default of the database is',
    edits: [edit('src/postgres/session.ts', "WHEN 'off' THEN 'on' WHEN 'local' THEN 'on'", "WHEN 'local' THEN 'on'")],
    test: inCrash('blue is killed right after the decision'),
  },
  {
    rule: 'the settings of a session do not weaken what the database asks of a commit',
    edits: [
      edit('src/postgres/session.ts', "WHEN 'off' THEN 'on' WHEN 'local' THEN 'on'", "WHEN 'local' THEN 'local'"),
    ],
    test: { file: 'test/postgres/mistakes-fence.test.ts', name: 'synchronous_commit' },
  },
  {
    rule: 'the way back is proven before every promotion',
    edits: [edit(PREPARE, '        await probePeer(session, conninfo, patience, published[0]);\n', '')],
    test: inFeeds('no promotion begins without a way back'),
  },
  {
    rule: 'a sequence that runs hot skips what is taken from it until everybody has heard of the promotion',
    edits: [edit('src/postgres/sequences.ts', '  return gap;\n', '  return least;\n')],
    test: { file: 'test/postgres/mistakes-fence.test.ts', name: 'a sequence skips what is taken from it' },
  },
  {
    rule: 'sequences are carried over in the hold',
    edits: [edit(HOLD, 'setPositions(sessions.to, carried, over)', 'setPositions(sessions.to, [], over)')],
    test: inLongHold('keys that the old side gives out'),
  },
  {
    rule: 'a sequence that has given no value yet is read again in the hold',
    edits: [
      edit(
        'src/postgres/sequences.ts',
        'const uncalled = new Set(rows.flatMap(({ i, last }) => (last === null ? [i] : [])));',
        'const uncalled = new Set(rows.flatMap(({ i, last }) => (last === null && planned.length === 0 ? [i] : [])));',
      ),
    ],
    test: { file: 'test/postgres/uncalled-sequences.test.ts', name: 'are seen where they stand then' },
  },
  {
    rule: 'a sequence that cycles goes where the old side stands',
    edits: [
      edit(
        'src/postgres/sequences.ts',
        'return shape.cycles ? old : furtherPosition(shape, old, there);',
        'return furtherPosition(shape, old, there);',
      ),
    ],
    test: { file: 'test/postgres/mistakes-fence.test.ts', name: 'a sequence that cycles goes on' },
  },
  {
    rule: 'sequences get a gap in their own direction',
    edits: [edit('src/postgres/sequences.ts', 'BigInt(gap) * shape.increment', 'BigInt(gap)')],
    test: { file: 'test/postgres/mistakes-fence.test.ts', name: 'every key that the old side' },
  },
  {
    rule: 'a sequence stays within its bounds',
    edits: [
      edit('src/postgres/sequences.ts', 'const fits = moved >= shape.min && moved <= shape.max;', 'const fits = true;'),
    ],
    test: { file: 'test/postgres/mistakes-fence.test.ts', name: 'a sequence without room' },
  },
  {
    rule: 'DDL on blue during the run is noticed',
    edits: [
      edit(
        'src/postgres/ddl/compare-facts.ts',
        'return definition === next ? [] :',
        'return definition === next || (one !== undefined && other !== undefined) ? [] :',
      ),
    ],
    test: { file: 'test/postgres/mistakes-fence.test.ts', name: 'DDL on blue' },
  },
  {
    rule: 'a decision names the epoch that it ends',
    edits: [
      edit(
        STATE,
        'IF r.epoch IS DISTINCT FROM expected_epoch OR r.writes_on = new_side THEN',
        'IF r.writes_on = new_side THEN',
      ),
    ],
    test: { file: 'test/postgres/mistakes-fence.test.ts', name: 'opens, closes and decides nothing' },
  },
  {
    rule: 'a try that its run has ended moves nothing',
    edits: [
      edit(PROMOTE, '    if (promotion.tries !== undefined) await refuseEnded(actors.main, promotion.tries);\n', ''),
    ],
    test: { file: 'test/long/late-attempt.long.ts', name: 'moves nothing once the run has ended the tries' },
  },
  {
    rule: 'green says that it has the writes when no earlier try can give them back any more',
    edits: [
      edit(
        'src/postgres/writes-of-green.ts',
        '    if (!decided && tries !== undefined) await endTries(green, tries);\n',
        '',
      ),
    ],
    test: { file: 'test/long/late-attempt.long.ts', name: 'gives nothing back once green has said' },
  },
  {
    rule: 'the way back ends only where green serves',
    edits: [
      edit('activities/context.ts', '    await refuseWhileBlueServes(own.databases, own.run, epoch);\n', ''),
      edit(
        'activities/retirement-looks.ts',
        '  refuseGivenBack(databases, { side: route.writesOn, epoch: route.epoch }, since);\n',
        '',
      ),
    ],
    test: { file: 'test/postgres/retirement-refused.test.ts', name: 'is refused once writes are back on blue' },
  },
  {
    rule: 'who ends the old feed holds the locks of both actors',
    edits: [
      edit(
        FINISH,
        "import { asActor } from './ownership.js';\n",
        'const asActor = (on, purpose, work, { limits }) => withSession(on, { purpose, ...limits }, work);\n',
      ),
    ],
    test: { file: 'test/long/late-undoing.long.ts', name: 'drops none of the next run' },
  },
];
