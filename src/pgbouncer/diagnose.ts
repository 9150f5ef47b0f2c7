import type { Finding } from '../postgres/doctor/diagnose.js';
import type { Liveness } from '../postgres/doctor/liveness.js';
import type { Verdict } from '../postgres/doctor/who-is-primary.js';
import type { FoundMark, PoolerFound } from './examine.js';
import { claimsPauses, markedBy, markName } from './mark.js';
import type { PgBouncers } from './pgbouncer.js';

/** What the doctor asks about: one migration, of which others may share its PgBouncers. */
export interface AskedAbout {
  readonly verdict: Verdict;
  readonly liveness: Liveness;
  /** Whose marks count; undefined where no name is known: then none does. */
  readonly migration: string | undefined;
  /** Of its plan; undefined without one. */
  readonly aliases: PgBouncers['aliases'] | undefined;
}

/** What is wrong with them, in plain words. Pure. */
export function diagnosePoolers(poolers: readonly PoolerFound[], asked: AskedAbout): Finding[] {
  return poolers.flatMap((pooler): Finding[] => {
    const name = `PgBouncer "${pooler.connection}"`;
    const say = (severity: Finding['severity'], what: string, next: string): Finding => ({
      ...{ severity, side: null, what: `${name} ${what}`, next },
    });
    if (pooler.reached) return diagnoseOne(pooler, asked, say);
    const next = 'bring it back, or mend its connection, and look again';
    return [say('problem', `can't be looked at: ${pooler.why}`, next)];
  });
}

type Reached = Extract<PoolerFound, { readonly reached: true }>;
type Say = (severity: Finding['severity'], what: string, next: string) => Finding;

/** The marks that a PgBouncer shows, by whose they are. */
interface Marks {
  readonly own: readonly FoundMark[];
  /** A promotion of the migration asked about is announced. */
  readonly moving: boolean;
  /** Of other migrations: one that is moving may have a pause in force now. */
  readonly others: readonly FoundMark[];
  /** What is to be seen to before a RELOAD, which would take the settings of their pause away; or nothing. */
  readonly first: string;
}

function marksOf({ marks }: Reached, migration: string | undefined): Marks {
  const isOwn = ({ entry }: FoundMark): boolean => migration !== undefined && entry === markName(migration);
  const own = marks.filter(isOwn);
  const others = marks.filter((mark) => !isOwn(mark) && mark.state === 'moving');
  const names = others.map(({ entry }) => `"${markedBy(entry)}"`).join(', ');
  const first = `wait until the promotion of ${names} is over, whose pause a RELOAD would break (the doctor of that plan says whether its run lives); then `;
  return {
    ...{ own, others, moving: own.some(({ state }) => state === 'moving') },
    first: others.length === 0 ? '' : first,
  };
}

function diagnoseOne(pooler: Reached, asked: AskedAbout, say: Say): Finding[] {
  const marks = marksOf(pooler, asked.migration);
  const { liveness } = asked;
  return [
    ...wrongSide(pooler, asked, marks, say),
    ...(pooler.pausedAsAWhole ? [wholePause(say)] : []),
    ...pauses(pooler, liveness, marks, say),
    ...settings(pooler, liveness, marks, say),
    ...(pooler.differs === null
      ? []
      : [
          say(
            'problem',
            `does not show what its file says: ${pooler.differs}`,
            `${marks.first}RELOAD it on its admin console; it must include that very file`,
          ),
        ]),
    ...(liveness.state === 'over' ? marks.own : []).map((mark) => leftMark(mark, marks, say)),
    ...marks.others.map(({ entry }) =>
      say(
        'note',
        `is in the promotion of another migration, by its mark (${entry}, moving)`,
        'nothing from here: the doctor of that plan says whether its run lives',
      ),
    ),
  ];
}

function wrongSide(
  { leadsTo, knownEntries }: Reached,
  { verdict, liveness, aliases }: AskedAbout,
  { moving, first }: Marks,
  say: Say,
): Finding[] {
  if (!knownEntries || aliases === undefined) return [];
  if (verdict.kind !== 'certain') {
    return leadsTo === null ? [say('problem', 'leads to neither side', 'see who is primary first')] : [];
  }
  const { primary } = verdict;
  if (leadsTo === primary) return [];
  const what = `leads to ${leadsTo ?? 'neither side'}, and writes are on ${primary}`;
  if (moving && isAttended(liveness)) {
    return [say('note', what, 'nothing: the run is moving the writes, and its worker leads it there')];
  }
  const byHand = `${first}give its entries host, port and dbname of "${aliases[primary]}" in the file that it includes, RELOAD`;
  switch (liveness.state) {
    case 'over':
      return [say('problem', what, byHand)];
    case 'unknown':
      return [say('problem', what, `${byHand}, once you know that no run lives`)];
    case 'lives': {
      const next = 'the run leads it there when its worker reaches it; see status and the worker';
      return [say('problem', what, liveness.unattended === true ? `${next}. Where no worker runs: ${byHand}` : next)];
    }
  }
}

/** Whether somebody is at work who ends what a run that lives has begun. */
function isAttended(liveness: Liveness): boolean {
  return liveness.state === 'lives' && liveness.unattended !== true;
}

const UNATTENDED = 'the run is moving the writes, and no worker is seen at work';
const LOOK_AGAIN = 'a worker that runs ends it within seconds: look again';

/** A pause of ours may have ended without its RELOAD, and one that a frozen worker begins late has none. */
function leftMark(mark: FoundMark, { first }: Marks, say: Say): Finding {
  const { entry, state, overtaken } = mark;
  const now = first === '' ? 'RELOAD now' : `${first}RELOAD`;
  return say(
    'leftover',
    `has the mark of a run that is over (${entry}, ${state}${overtaken === true ? ', overtaken' : ''})`,
    claimsPauses(mark)
      ? `${now}, on its admin console: settings of a pause may still be in force. The line ${entry} of the file may then be deleted, with another RELOAD, or left`
      : `nobody is harmed by it: ${first}delete the line ${entry} from the file and RELOAD, or leave it`,
  );
}

function settings({ quiet }: Reached, liveness: Liveness, { moving, others, first }: Marks, say: Say): Finding[] {
  if (quiet === null) return [];
  const what = `lets the clients of each database share one server connection, as for a pause (${quiet})`;
  if (liveness.state === 'lives' && moving) {
    return isAttended(liveness)
      ? [say('note', `${what}: the run is moving the writes`, 'nothing: it ends within seconds; look again')]
      : [
          say(
            'problem',
            `${what}: ${UNATTENDED}`,
            `${LOOK_AGAIN}. Where none runs: ${first}RELOAD, on its admin console`,
          ),
        ];
  }
  if (others.length > 0) return [say('note', `${what}, of whoever is moving the writes`, `${first}look again`)];
  const when = liveness.state === 'unknown' ? 'when no run lives (--run-is-over): ' : '';
  return [say('problem', what, `${when}RELOAD, on its admin console, unless it is configured so`)];
}

/** Never a run's, which pauses its entries alone, and can't while this lasts. */
function wholePause(say: Say): Finding {
  return say(
    'problem',
    'holds all its clients: it is paused as a whole (PAUSE or SUSPEND without a name), and not by a run',
    'ask who has paused it; then on its admin console: RESUME; without a name',
  );
}

function pauses({ paused, knownEntries }: Reached, liveness: Liveness, marks: Marks, say: Say): Finding[] {
  if (paused.length === 0) return [];
  const { own, others, moving, first } = marks;
  const overtaken = own.some((mark) => mark.overtaken === true);
  const entries = paused.map((entry) => `"${entry}"`).join(', ');
  // RESUME alone would leave the settings of the pause in force.
  const resume = `${first}on its admin console: RELOAD; ${paused.map((entry) => `RESUME ${entry};`).join(' ')}`;
  const what = `holds its clients: ${entries} paused`;
  switch (liveness.state) {
    case 'over':
      return [
        say(
          'problem',
          `${what}, and no run lives that would resume`,
          `see first that it leads where writes are, then ${resume}`,
        ),
      ];
    case 'unknown':
      return [
        say('problem', `${what}; whether a run lives is not known`, `when no run lives (--run-is-over): ${resume}`),
      ];
    case 'lives':
      if (moving && !isAttended(liveness)) {
        const next = `${LOOK_AGAIN}. Where none runs, see that it leads where writes are, then ${resume}`;
        return [say('problem', `${what}: ${UNATTENDED}`, next)];
      }
      if (moving) {
        return [say('note', `${what}: the run is moving the writes`, 'nothing: it ends within seconds; look again')];
      }
      // Only a plan says whose the entries are.
      if (!knownEntries && others.length > 0) return [say('note', what, `${first}look again`)];
      return [
        say(
          'problem',
          `${what}, and not by the run${overtaken ? ', unless by a worker of it that woke up late' : ''}`,
          `ask who has paused it; then ${resume}`,
        ),
      ];
  }
}
