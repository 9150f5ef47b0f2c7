import { edit, type Mutation } from './mutation.js';

/* Rules of what comes late: servers that are others now, workers that wake up, answers that never came. */

const inFeeds = (name: string) => ({ file: 'test/long/mistakes-feeds.long.ts', name });

export const LATE_RULES: readonly Mutation[] = [
  {
    rule: 'a way back that is enabled in the hold ends the try',
    edits: [edit('src/postgres/promote.ts', '      await checkWayBackIsOff(main, promotion, hold);\n', '')],
    test: inFeeds('one that is enabled in the hold'),
  },
  {
    rule: 'commits that are never answered are found before the hold',
    edits: [edit('src/postgres/promote.ts', '  await refuseUnansweredCommits(sessions, promotion);\n', '')],
    test: { file: 'test/faults/synchronous-standby.faults.ts', name: 'before the hold' },
  },
  {
    rule: 'whoever has waited for the lock looks whether it is decided by then',
    edits: [
      edit(
        'src/postgres/promotion-hold.ts',
        "    if (rowCount !== 1) throw new StandsInTheWay('another worker has decided it meanwhile');\n",
        "    if (rowCount === null) throw new StandsInTheWay('another worker has decided it meanwhile');\n",
      ),
    ],
    test: { file: 'test/long/isolation.long.ts', name: 'whoever waits for the lock' },
  },
  {
    rule: 'a blue that was restored is not believed',
    edits: [
      edit(
        'src/postgres/where-writes-are.ts',
        '  if (Math.max(known, since) <= byBlue.epoch) return byBlue;\n',
        '  if (Math.max(known, since) <= Infinity) return byBlue;\n',
      ),
    ],
    test: { file: 'test/postgres/where-writes-are.test.ts', name: 'is uncertain where' },
  },
  {
    rule: 'a fence that is held alone is no answer: whoever has it may be about to decide',
    edits: [edit('src/postgres/promotion-decision.ts', '  return rowCount !== 0;\n', '  return rowCount === null;\n')],
    test: { file: 'test/faults/synchronous-standby.faults.ts', name: 'whoever gives a promotion up' },
  },
  {
    rule: 'a slot that is half made is none',
    edits: [
      edit(
        'src/postgres/replication-slot.ts',
        '    if (slot?.complete === true) return;\n    if (slot === undefined) {\n',
        '    if (slot !== undefined) return;\n    if (slot === undefined) {\n',
      ),
    ],
    test: { file: 'test/postgres/replication-slot.test.ts', name: 'there only when it is complete' },
  },
  {
    rule: 'tries are ended once, and none that was asked for later',
    edits: [
      edit(
        'src/postgres/ended-tries.ts',
        '  if (ended?.at !== undefined && isUpTo(asked, ended)) return;\n',
        '  if (ended?.at === Infinity) return;\n',
      ),
      edit(
        'src/postgres/ended-tries.ts',
        "      WHERE CASE WHEN p.state ->> 'workflowRun' = $4 THEN (p.state ->> 'activity')::float8 < $5\n",
        "      WHERE true OR CASE WHEN p.state ->> 'workflowRun' = $4 THEN (p.state ->> 'activity')::float8 < $5\n",
      ),
    ],
    test: { file: 'test/long/late-attempt.long.ts', name: 'tries are ended once' },
  },
  {
    rule: 'rows of tables that green alone has are a loss however late they come',
    edits: [
      edit('src/postgres/only-on-green.ts', '    ofKnown: ifTold(since) ?? ifTold(upTo),\n', '    ofKnown: since,\n'),
    ],
    test: { file: 'test/postgres/only-on-green.test.ts', name: 'however many transactions ago' },
  },
];
