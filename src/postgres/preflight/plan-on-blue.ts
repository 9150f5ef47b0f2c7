import { tryPlan, type Mistake, type Trial } from '../migrate/plan-trial.js';
import { planWork } from '../migrate/plan-work.js';
import { ident } from '../identifier.js';
import {
  NEW_GREEN,
  oneRow,
  type Found,
  type PairCheck,
  type PairContext,
  type SideCheck,
  type SideContext,
} from './check.js';
import { STANDBY } from './standby.js';
import {
  FEATURE_NOT_SUPPORTED,
  SYNTAX_ERROR,
  UNDEFINED_FUNCTION,
  UNDEFINED_OBJECT,
  UNDEFINED_SCHEMA,
} from '../sqlstate.js';

/**
 * What PostgreSQL refuses of the plan. A standby has what blue has, and tells nothing before its promotion, which can't be
 * undone.
 */
export const planOnBlue: SideCheck = {
  name: 'plan-on-blue',
  sides: ['blue'],
  methods: STANDBY,
  run: async (blue) => {
    const { mistakes, untried } = await trialOnBlue(blue);
    const found = mistakes.map(({ object, message }) => ({
      severity: 'error' as const,
      object,
      message: `PostgreSQL refuses it: ${message}`,
      remedy: 'Correct it in the plan: it would be refused when green is promoted, and no standby any more',
    }));
    return [...found, ...(await notTried(blue, untried, 'when green is promoted'))];
  },
};

/**
 * The same where the schema is copied. Green is asked itself before the rows, when both databases are claimed and its schema is
 * there: a mistake is better known before. What a newer green, or one with other extensions, may know is no mistake for sure.
 */
export const planTrial: PairCheck = {
  name: 'plan-trial',
  methods: NEW_GREEN,
  run: async (pair) => {
    const { blue } = pair;
    const { mistakes, untried } = await trialOnBlue(blue);
    const knowsMore = mistakes.length > 0 && (await mayKnowMore(pair));
    const found = mistakes.map((mistake): Found => {
      const { object, message } = mistake;
      if (!knowsMore || !isUnknown(mistake)) {
        const remedy = 'Correct it in the plan: green would refuse it before the first row is copied';
        return { severity: 'error', object, message: `PostgreSQL refuses it: ${message}`, remedy };
      }
      return {
        severity: 'warning',
        object,
        message: `blue refuses it: ${message}; green is asked before the first row is copied, and may know it by its version or its extensions`,
        remedy: 'Correct it in the plan, unless only green is to know it',
      };
    });
    const when = 'when green has been given its schema, before the first row';
    return [...found, ...(await notTried(blue, untried, when)), ...behindSql(blue)].map((one) => ({
      side: 'blue' as const,
      ...one,
    }));
  },
};

async function trialOnBlue({ session, plan, tables }: SideContext): Promise<Trial> {
  if (plan.migrations.length === 0) return { mistakes: [], untried: undefined };
  return tryPlan({ session, blue: session, moved: await tables(), work: await planWork(plan) });
}

/** SQLSTATEs of what a server does not know. */
const UNKNOWN: ReadonlySet<string> = new Set([
  SYNTAX_ERROR,
  FEATURE_NOT_SUPPORTED,
  UNDEFINED_FUNCTION,
  UNDEFINED_OBJECT,
  UNDEFINED_SCHEMA,
]);

function isUnknown({ state = '' }: Mistake): boolean {
  return UNKNOWN.has(state);
}

/** Whether green may know what blue does not. */
async function mayKnowMore({ blue, green }: PairContext): Promise<boolean> {
  if (green.version !== blue.version) return true;
  const [onBlue, onGreen] = [await extensionsOf(blue), await extensionsOf(green)];
  return [...onGreen].some((name) => !onBlue.has(name));
}

async function extensionsOf({ session }: SideContext): Promise<ReadonlySet<string>> {
  const { rows } = await session.query<{ name: string }>(
    `SELECT extname || ' ' || extversion AS name FROM pg_extension`,
  );
  return new Set(rows.map(({ name }) => name));
}

/** Raw SQL may make or change what the steps behind it need, so neither it nor they can be tried. */
function behindSql({ plan: { migrations } }: SideContext): Found[] {
  const first = migrations.findIndex((migration) => 'sql' in migration);
  const step = migrations[first];
  if (step === undefined || !('sql' in step)) return [];
  const behind = migrations.slice(first + 1).filter((one) => 'createIndex' in one || 'addConstraint' in one).length;
  const also = behind === 0 ? '' : `, nor are the ${behind} indexes and constraints behind it`;
  return [
    {
      severity: 'info',
      object: `migrations[${first}].sql`,
      message: `the step "${step.sql.name}" is not tried${also}: a mistake in it comes out in the run`,
      remedy: 'Rehearse the plan on a copy',
    },
  ];
}

/** @param when mistakes of what could not be tried come out */
async function notTried({ session }: SideContext, untried: unknown, when: string): Promise<Found[]> {
  if (untried === undefined) return [];
  const { database, user } = await oneRow<{ database: string; user: string }>(
    session,
    'SELECT current_database() AS database, current_user AS user',
  );
  return [
    {
      severity: 'warning',
      object: 'migrations',
      message: `not all of the plan could be tried on blue, so a mistake in it may come out ${when}: ${untried instanceof Error ? untried.message : String(untried)}`,
      remedy: `Where a privilege is missing: GRANT TEMPORARY ON DATABASE ${ident(database)} TO ${ident(user)}; or rehearse the plan on a copy`,
    },
  ];
}
